"""Write what the full harness counted into a page: `table.py counts.json page.md`.

Every row is one injury, the tests that make it, how often they did and how often what
has to hold held; `{...}` in what was lost is a number that the tests recorded.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

START, END = "<!-- counts of the injuries -->", "<!-- end of the counts -->"
ROWS = (
    (
        "`kill -9` of a training at a random moment",
        ("test_kills::test_a_killed_training_ends_in_the_same_bits",),
        "at most {lost_updates} updates, with a checkpoint every 2",
    ),
    (
        "`kill -9` of Snakemake and all that it started, at a random moment",
        (
            "test_kills::test_a_killed_process_tree_ends_in_the_same_bits",
            "test_kills::test_snakemake_goes_on_after_a_kill_of_the_tree_in_training",
        ),
        "the job under way; of a training the updates since the last checkpoint",
    ),
    (
        "`kill -9` of one training again and again",
        ("test_kills::test_a_training_killed_again_and_again_ends_in_the_same_bits",),
        "as above, each time",
    ),
    (
        "death with a file half written: every file of every stage",
        ("test_partial_writes::test_a_file_is_whole_or_absent",),
        "the file, which its stage then wrote again",
    ),
    (
        "`kill -9` with a file written and not yet renamed: every file of every stage",
        ("test_partial_writes::test_a_kill_just_before_the_rename_is_made_good",),
        "the file, which its stage then wrote again",
    ),
    (
        "death while a checkpoint is written or renamed",
        ("test_partial_writes::test_the_last_whole_checkpoint_is_used",),
        "{lost_updates} updates: one period",
    ),
    (
        "disk full, at 4 fill levels in every stage",
        (
            "test_disk_full::test_a_full_disk_costs_nothing_but_the_stage",
            "test_disk_full::test_a_disk_that_fills_up_leaves_the_last_checkpoint",
        ),
        "the stage under way",
    ),
    (
        "file size limit in the middle of a file, in every stage",
        ("test_disk_full::test_a_file_that_may_not_grow_is_named",),
        "the stage under way",
    ),
    (
        "array, model, statistics, set, table, list, picture or record cut short",
        ("test_corruption::test_a_truncated_file_is_named_and_not_used",),
        "nothing: refused by every reader, made anew with the same bits",
    ),
    (
        "one bit flipped in them, at random places",
        (
            "test_corruption::test_a_flipped_bit_is_noticed_and_the_file_not_used",
            "test_corruption::test_what_is_made_anew_is_the_same",
        ),
        "nothing: refused by every reader, made anew with the same bits",
    ),
    (
        "checkpoint cut short, or one bit flipped",
        ("test_corruption::test_a_damaged_checkpoint_is_named_and_not_used",),
        "the training so far: it starts anew, and ends in the same bits",
    ),
    (
        "checkpoint of another config, seed, data set, code, library or T",
        (
            "test_resume_identity::test_a_foreign_checkpoint_is_not_used_and_said_why",
            "test_resume_identity::test_the_checkpoint_of_another_number_of_steps_is_not_used",
        ),
        "nothing that belongs to this run",
    ),
    (
        "loss NaN or infinite, weights infinite, fp16 scale collapsed",
        (
            "test_divergence::test_a_loss_that_is_no_number_stops",
            "test_divergence::test_weights_that_are_no_numbers_are_never_saved",
            "test_divergence::test_fp16_gradients_that_overflow_at_any_scale_stop",
        ),
        "the updates since the last good checkpoint; no model is published",
    ),
    (
        "out of memory while sampling (a stand-in for the GPU's error, on the CPU)",
        (
            "test_memory::test_the_batch_is_halved_and_the_images_stay",
            "test_memory::test_an_image_that_does_not_fit_is_refused",
        ),
        "the batch under way, sampled again in halves",
    ),
    (
        "a stage started while another process writes the same",
        (
            "test_concurrency::test_a_stage_leaves_alone_what_another_process_writes",
            "test_concurrency::test_a_training_started_twice_is_done_once",
            "test_concurrency::test_of_two_that_start_together_one_works",
            "test_concurrency::test_a_killed_process_holds_no_lock",
        ),
        "nothing",
    ),
    (
        "two `snakemake` of one study",
        ("test_concurrency::test_of_two_snakemakes_one_says_so",),
        "nothing",
    ),
    (
        "SIGTERM or Ctrl-C in a training, also through Snakemake",
        (
            "test_signals::test_a_signal_keeps_every_update",
            "test_signals::test_ctrl_c_in_snakemake_reaches_the_training",
        ),
        "nothing; the tiny network's training ended within {seconds_to_the_end} s",
    ),
    (
        "a download that breaks, stalls or is killed, and then recovers",
        (
            "test_downloads::test_a_download_goes_on_after_a_failure",
            "test_downloads::test_a_killed_download_goes_on",
        ),
        "nothing: it goes on where it was",
    ),
    (
        "a server that stalls, trickles, never ends, redirects, lies, or has another "
        "file",
        (
            "test_downloads::test_a_download_that_cannot_be_had_leaves_nothing",
            "test_downloads::test_without_a_checksum_the_format_decides",
            "test_downloads::test_a_file_changed_after_its_download_is_refused",
        ),
        "nothing: refused, and nothing left that looks like the file",
    ),
    (
        "archive with `../`, absolute names, links or devices",
        (
            "test_archives::test_a_zip_with_a_name_that_leads_out_is_refused",
            "test_archives::test_a_zip_with_a_link_or_a_device_is_refused",
            "test_archives::test_a_tar_with_a_name_that_leads_out_is_refused",
            "test_archives::test_a_tar_with_a_link_or_a_device_is_refused",
        ),
        "nothing: refused by name",
    ),
    (
        "archive or table that unpacks to gigabytes, or lists a million entries",
        (
            "test_archives::test_a_zip_of_ten_gigabytes_is_refused",
            "test_archives::test_a_zip_of_a_million_entries_is_refused",
            "test_archives::test_a_zip_of_endless_names_is_refused",
            "test_archives::test_a_bomb_among_the_images_of_a_zip_is_rejected",
            "test_archives::test_a_tar_with_a_file_of_ten_gigabytes_is_refused",
            "test_archives::test_a_tar_with_a_name_of_ten_gigabytes_is_refused",
            "test_archives::test_a_tar_of_nothing_but_zeros_is_refused",
            "test_archives::test_a_tar_that_unpacks_to_ten_gigabytes_in_all_is_refused",
            "test_archives::test_a_tar_of_a_million_entries_is_refused",
            "test_archives::test_a_variable_of_ten_million_numbers_is_refused",
            "test_archives::test_a_parquet_file_of_a_million_rows_is_refused",
            "test_archives::test_a_parquet_file_of_ten_gigabytes_of_names_is_refused",
        ),
        "nothing: refused by name, within 1 GiB of memory (parquet: 4 GiB of addresses)"
        " and 2 minutes of one core",
    ),
    (
        "small image file that states a huge size, 7 formats",
        ("test_archives::test_images_of_huge_dimensions_are_rejected",),
        "the image, which `rejected.csv` names",
    ),
    (
        "pickled code in arrays, models, checkpoints, weights, `.mat`, parquet, YAML",
        (
            "test_untrusted_code::test_code_in_a_result_is_not_run",
            "test_untrusted_code::test_code_in_a_checkpoint_is_not_run",
            "test_untrusted_code::test_code_in_the_weights_of_the_extractor_is_not_run",
            "test_untrusted_code::test_code_in_a_mat_file_is_not_run",
            "test_untrusted_code::test_code_in_a_parquet_file_is_not_run",
            "test_untrusted_code::test_code_in_a_config_is_not_run",
        ),
        "nothing: never run, also where the checksums agree",
    ),
    (
        "names and paths with `;`, `$( )`, quotes, spaces, newlines, unicode",
        (
            "test_names::test_the_names_of_files_are_kept_and_not_run",
            "test_names::test_the_names_of_members_are_kept_and_not_run",
            "test_names::test_paths_are_quoted_in_the_lines_that_snakemake_gives_to_a_shell",
            "test_names::test_a_name_that_could_be_more_is_refused",
            "test_names::test_a_name_on_the_command_line_that_is_not_the_studys_is_refused",
        ),
        "nothing: kept as they are, or refused; never run",
    ),
    (
        "bad config, data set, option, record, or stage run too early",
        tuple(
            f"test_bad_input::{name}"
            for name in (
                "test_a_bad_value_names_its_key",
                "test_a_file_that_is_no_study_is_named",
                "test_a_config_that_cannot_be_read_is_named",
                "test_a_bad_data_set_is_named_with_the_remedy",
                "test_a_stage_run_too_early_says_what_is_missing",
                "test_an_option_that_the_study_does_not_have_is_named",
                "test_a_record_that_is_none_is_named",
                "test_a_record_of_another_form_is_named_whatever_its_checksum",
                "test_a_record_that_lacks_a_key_is_named",
                "test_a_result_of_other_values_is_named",
                "test_images_of_another_size_are_named",
                "test_an_export_writes_over_nothing",
            )
        ),
        "nothing: one sentence, and not a file written",
    ),
    (
        "a study with 2 threads instead of 1, from training to score",
        ("test_twice::test_what_the_number_of_threads_changes",),
        "nothing, but the last bits: weights differ by up to "
        "{largest_weight_difference:.1e}, samples by {largest_pixel_difference:.0f} of "
        "255 levels, the score by {score_difference:.1e} of itself",
    ),
    (
        "SIGTERM or Ctrl-C while sampling",
        ("test_signals::test_a_signal_keeps_the_finished_batches",),
        "the batch under way; ended within {seconds_to_the_end} s",
    ),
    (
        "a whole study built twice, {files} files compared",
        ("test_twice::test_the_same_study_twice_has_the_same_bits",),
        "nothing: all bits are the same, but for measured times",
    ),
)


def table(counts: dict[str, dict]) -> str:
    """Return the Markdown table of the rows; a test without a count is an error."""
    lines = ["| injury | tried | held | what was lost |", "|---|---|---|---|"]
    for injury, tests, lost in ROWS:
        rows = [counts[name] for name in tests]
        numbers = {key: value for row in rows for key, value in row.items()}
        tried, held = (sum(row[key] for row in rows) for key in ("tried", "held"))
        lines.append(
            f"| {injury.format(**numbers)} | {tried} | {held} "
            f"| {lost.format(**numbers)} |"
        )
    return "\n".join(lines)


def main(counts: Path, page: Path) -> None:
    """Replace what stands between the two comments of a page."""
    text = table(json.loads(counts.read_text(encoding="utf-8")))
    before = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    page.write_text(
        pattern.sub(lambda _: f"{START}\n{text}\n{END}", before), encoding="utf-8"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
