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
        "array, model, statistics, set or record cut short",
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
        "checkpoint of another config, seed, data set, code or T",
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
        "nothing; ended within {seconds_to_the_end} s",
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
