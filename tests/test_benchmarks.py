"""The benchmark program: its arithmetic, its table, its check; and tiny real rows."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import (
    __main__,
    check,
    contestants,
    frechet,
    goals,
    growth,
    layers,
    networks,
    orchestration,
    peak,
    peers,
    resident,
    table,
    whole_study,
)
from benchmarks.__main__ import main
from benchmarks.groups import GROUPS, Later
from benchmarks.rows import Row, make_row
from benchmarks.settings import Settings, settings_for
from benchmarks.study import environment
from benchmarks.timing import Work, alternate, compare, quartiles
from noisesteps.devices import DTYPES
from noisesteps.evaluation import Statistics, frechet_distance
from noisesteps.models.blocks import Upsample

CPU = torch.device("cpu")
TINY = Settings(
    "cpu",
    threads=1,
    rounds=2,
    preset="tiny",
    image_size=8,
    batch=4,
    sampling=((2, 3),),
    precisions=("fp32", "bf16"),
    seconds=0.0,
)
ROOT = Path(__file__).parents[1]
PAGE, BASELINE = ROOT / "docs/performance.md", ROOT / "benchmarks/baseline.json"
TABLES = {"goals": goals, "benchmarks": table, "study": whole_study}
MARKS = (table.BEGIN, table.END)
OTHERS = "\n".join(mark.format(name) for name in ("goals", "study") for mark in MARKS)
SECONDS = st.floats(1e-6, 1e3)


def a_row(name="training-fp32", ratio=2.0, threads=1, **values):
    return Row(
        name,
        "training step",
        "diffusers",
        ours_s=1.0,
        peer_s=ratio,
        ratio=ratio,
        kind="cpu",
        device="a processor",
        threads=threads,
        rounds=3,
        torch="2",
        **values,
    )


# Statistics


def test_a_comparison_takes_medians_and_the_quartiles_of_the_rounds():
    compared = compare([1.0, 2.0, 4.0], [4.0, 4.0, 4.0])
    assert (compared.ours_s, compared.peer_s, compared.ratio) == (2.0, 4.0, 2.0)
    assert (compared.ratio_low, compared.ratio_high) == (1.5, 3.0)


@settings(deadline=None)
@given(st.lists(SECONDS, min_size=1, max_size=20))
def test_quartiles_enclose_the_median(values):
    low, high = quartiles(values)
    ordered = [min(values), low, statistics.median(values), high, max(values)]
    for below, above in itertools.pairwise(ordered):
        assert below <= above * (1 + 1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=9))
def test_swapping_the_sides_inverts_the_ratio(pairs):
    ours, peer = map(list, zip(*pairs, strict=True))
    there, back = compare(ours, peer).ratio, compare(peer, ours).ratio
    assert there * back == pytest.approx(1)


def test_everybody_takes_turns_and_every_other_round_goes_backwards():
    calls = []
    works = {name: Work(lambda name=name: calls.append(name)) for name in "AB"}
    times = alternate(works, 4, 0.0)
    assert calls[:6] == ["A"] * 3 + ["B"] * 3  # the warm-up
    assert "".join(calls[6:]) == "ABBAABBA"
    assert [len(times[name]) for name in "AB"] == [4, 4]


def test_times_are_those_of_one_unit_and_tidying_up_is_not_counted(monkeypatch):
    clock = itertools.count(step=6)  # 6 s from one look to the next
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    tidied = []
    work = Work(lambda: None, units=3, after=lambda: tidied.append(next(clock)))
    assert alternate({"only": work}, 2, 12.0) == {"only": [1.0, 1.0]}
    assert len(tidied) == 3


# Rows and the table


def test_a_row_survives_json(tmp_path):
    path = tmp_path / "speed.json"
    rows = [a_row(goal=1.5, goal_text="≥ 1.5×"), a_row("peak", threads=2)]
    table.write(path, rows)
    assert table.read(path) == rows
    values = json.loads(path.read_text())[0]
    assert {"work", "peer", "ours_s", "peer_s", "ratio", "goal"} <= set(values)
    assert values["met"] is True


def test_goals_are_met_at_their_ratio_or_above():
    assert a_row(ratio=2.0, goal=2.0).met is True
    assert a_row(ratio=1.99, goal=2.0).met is False
    assert a_row(ratio=1.0).met is None


def test_new_rows_take_the_place_of_old_ones():
    old = [a_row(ratio=1.0), a_row("other")]
    new = [a_row(ratio=3.0), a_row(ratio=4.0, threads=2)]
    merged = table.merge(old, new)
    assert [(row.name, row.ratio) for row in merged] == [
        ("training-fp32", 3.0),
        ("other", 2.0),
        ("training-fp32", 4.0),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (1234.4, "1234 s"), (2.5, "2.5 s"), (0.0123, "12.3 ms"),
     (4.2e-5, "42 µs"), (3e-8, "0.03 µs")],
)  # fmt: skip
def test_durations(seconds, text):
    assert table.duration(seconds) == text


def test_the_table_says_what_was_met_and_what_was_not():
    rows = [a_row(goal=3.0, goal_text="≥ 3×"), a_row(ratio=4.0, goal=3.0)]
    lines = table.plain(rows).splitlines()[2:]
    assert ["MISSED" in line for line in lines] == [True, False]
    assert "2×" in lines[0]


def test_the_table_goes_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    marks = [mark.format("benchmarks") for mark in MARKS]
    page.write_text("before\n\n{}\nold\n{}\n{}\n\nafter\n".format(*marks, OTHERS))
    table.into_page(page, [a_row(note="a note")])
    table.into_page(page, [a_row(note="a note")])
    text = page.read_text()
    assert text.startswith("before\n\n") and text.endswith("\n\nafter\n")
    assert "old" not in text
    assert text.count("| diffusers |") == 1
    assert "a processor" in text and "a note" in text


def test_a_page_has_a_table_for_each_machine():
    rows = [a_row(), replace(a_row("other"), device="another", note="slow")]
    first, second = table.markdown(rows).split("Measured on ")[1:]
    assert first.startswith("a processor, PyTorch 2.")
    assert second.startswith("another, PyTorch 2.") and second.endswith("slow")
    assert all(part.count("training step |") == 1 for part in (first, second))


def test_goals_stand_beside_what_each_machine_reached():
    rows = [
        a_row(ratio=2.13, threads=2, goal=2.0, goal_text="≥ 2×", ratio_layers=3.0),
        a_row(ratio=1.5, goal=2.0, goal_text="≥ 2×", ratio_layers=2.5),
        a_row("without a goal"),
    ]
    better = [replace(row, device="another", ratio=2.5) for row in rows]
    worse = [replace(row, device="a third", ratio=1.0) for row in rows[1:]]
    heading, _, line = goals.markdown(rows + better + worse).splitlines()
    assert [cell.strip() for cell in heading.split("|")][3:-1] == [
        *("goal", "a processor", "another", "a third"),
    ]
    assert [cell.strip() for cell in line.split("|")][3:-1] == [
        "≥ 2×",
        "1.5× MISSED, 2.13× met<br>layers alone 2.5×, 3×",
        "2.5×, 2.5× met",
        "1× MISSED<br>layers alone 2.5×",
    ]


@pytest.mark.parametrize(
    ("goal_text", "ratio", "text"),
    [
        ("≥ 2×", 1.5, "1.5×"),
        ("≤ 1.3× as long", 0.8, "1.25×"),
        ("≤ 1 % of it", 800.0, "0.125 %"),
        ("≤ 15 % on top", 0.8, "25 %"),
        ("≤ 1 GB above", 4.0, "0.25 GB"),
    ],
)
def test_what_was_reached_is_in_the_goals_unit(goal_text, ratio, text):
    assert goals.reached(a_row(ratio=ratio, goal=1.0, goal_text=goal_text)) == text


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(OTHERS)
    with pytest.raises(ValueError, match="needs one line"):
        table.into_page(page, [a_row()])
    assert page.read_text() == OTHERS


def test_the_committed_page_has_the_tables_of_the_committed_result():
    text, rows = PAGE.read_text(), table.read(BASELINE)
    for name, written in TABLES.items():
        begin, end = table.BEGIN.format(name), table.END.format(name)
        assert text.count(begin) == text.count(end) == 1
        assert f"{begin}\n\n{written.markdown(rows).strip()}\n\n{end}" in text


def test_notes_say_their_threads_where_they_differ_by_them():
    rows = [a_row(note="alike"), a_row(note="alike", threads=2)]
    assert table.notes(rows) == "- training step: alike"
    rows = [a_row(note="slow"), a_row(note="fast", threads=2)]
    assert table.notes(rows).splitlines() == [
        "- training step, 1 thread: slow",
        "- training step, 2 threads: fast",
    ]


# The whole study


def test_the_whole_study_is_counted_as_the_dissertation_ran_it():
    """60 models, 50 epochs; 128 images in 100 to 2,000 steps from each."""
    whole = whole_study.amounts()
    assert whole.models == 60
    assert whole.trained == 20 * 50 * (7169 + 1000 + 14000)
    assert whole.denoised == 3 * 128 * sum(range(100, 2001, 100))


@pytest.mark.parametrize(("compiled_s", "expected_s"), [(256.0, 128.0), (64.0, 64.0)])
def test_the_whole_study_takes_its_steps_times_what_one_takes(compiled_s, expected_s):
    compiled = a_row("sampling-128-fp32-diffusers-compiled")
    rows = [
        replace(compiled, ours_s=compiled_s, peer_s=128.0),
        replace(a_row("training-fp32-diffusers"), ours_s=16.0, peer_s=32.0),
        replace(a_row("sampling-128-fp32-diffusers"), ours_s=128.0, peer_s=128.0),
        replace(a_row("training-bf16-diffusers"), ours_s=1.0, peer_s=1.0),
        replace(a_row("training-fp32-lucidrains"), ours_s=1.0, peer_s=1.0),
    ]
    *_, line = whole_study.markdown(rows).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    training, theirs = 22_169_000 / 3600, 8_064_000 / 3600
    sampling = theirs * expected_s / 128
    assert cells == [
        "a processor", "small-32, 32×32", "fp32", "1",
        *(f"{hours:,.0f} h" for hours in (
            training, sampling, training + sampling, 2 * training + theirs)),
    ]  # fmt: skip


def test_the_page_tells_the_operations_of_the_whole_study():
    whole = whole_study.amounts()
    full = replace(TINY, preset="ddpm-113m", image_size=128)
    each = [peak.operations(full, "ours", 1, training) for training in (True, False)]
    asked = [whole.trained * each[0], whole.denoised * each[1]]
    text = PAGE.read_text()
    for image, together in zip(each, asked, strict=True):
        assert f"| {image / 1e9:.0f} GFLOP | {together / 1e18:.2f} EFLOP |" in text
    assert f"{sum(asked) / 1e18:.2f} EFLOP" in text
    assert f"{sum(asked) / 1e12 / 3600:,.0f} hours" in text


# The check


def test_the_check_names_what_fell_and_only_that():
    baseline = [a_row(), a_row("sampling"), a_row("gone"), a_row("peak", ratio=None)]
    rows = [a_row(ratio=1.69), a_row("sampling", ratio=1.71), a_row("new", ratio=0.1)]
    (sentence,) = check.slower(rows, baseline, tolerance=0.15)
    assert sentence.startswith("training-fp32 (1 thread) became slower: 1.69×")


def test_the_check_compares_no_times_and_no_other_number_of_threads():
    slow_machine = replace(a_row(), ours_s=100.0, peer_s=200.0, device="another")
    assert check.slower([slow_machine], [a_row()]) == []
    assert check.slower([a_row(threads=8)], [a_row(threads=2)]) == []
    with pytest.raises(ValueError, match="no row in common"):
        check.slower([a_row(threads=8)], [a_row(threads=1)])


def test_the_check_prefers_the_same_machine_in_an_earlier_result_of_several():
    baseline = [replace(a_row(ratio=3.0), device="another"), a_row(ratio=1.0)]
    assert check.slower([a_row(ratio=1.0)], baseline) == []
    third = replace(a_row(ratio=1.0), device="a third")
    assert len(check.slower([third], baseline)) == 1


def test_an_unchanged_ratio_raises_no_alarm_whatever_its_quartiles():
    odd = a_row(ratio=2.0, ratio_low=1.4, ratio_high=1.5)
    assert check.slower([odd], [a_row(ratio=2.0)]) == []


def test_a_faster_peer_of_our_own_raises_no_alarm_until_the_goal_is_missed():
    before = a_row(ratio=900.0, goal=100.0, own_peer=True)
    assert check.slower([replace(before, ratio=500.0)], [before]) == []
    assert len(check.slower([replace(before, ratio=99.0)], [before])) == 1
    without = replace(before, goal=None)
    assert check.slower([replace(without, ratio=500.0)], [without]) == []


def test_a_noisy_row_raises_no_alarm():
    noisy = a_row(ratio=1.5, ratio_low=1.0, ratio_high=2.2)
    assert check.slower([noisy], [a_row()]) == []
    steady = a_row(ratio=1.5, ratio_low=1.4, ratio_high=1.6)
    assert len(check.slower([steady], [a_row()])) == 1


def test_the_check_names_goals_that_are_just_missed_and_rows_that_are_lacking():
    before = a_row(goal=2.0, goal_text="≥ 2×")
    old = [before, a_row("gone"), replace(a_row("gone"), device="another")]
    goal, lacking = check.remarks([replace(before, ratio=1.9)], old)
    assert (
        goal == "training-fp32 (1 thread) misses its goal, ≥ 2×: 1.9×, and 2× before."
    )
    assert lacking == "Not measured again: gone (1 thread)."
    assert check.slower([replace(before, ratio=1.9)], old) == []
    assert len(check.remarks([replace(before, ratio=1.0)], old)) == 1  # it fell
    assert check.remarks(old, old) == []


def test_the_check_ends_with_1_where_something_fell(tmp_path):
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    table.write(new, [a_row(ratio=1.0)])
    table.write(old, [a_row(ratio=2.0)])
    fell = CliRunner().invoke(main, ["check", str(new), str(old)])
    assert fell.exit_code == 1
    assert "training-fp32" in fell.output
    rose = CliRunner().invoke(main, ["check", str(old), str(new)])
    assert rose.exit_code == 0


# What is measured


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_settings_survive_the_way_to_another_process(device):
    conditions = settings_for(device, threads=2, rounds=3)
    assert Settings.parse(conditions.text()) == conditions


def test_every_group_leads_to_a_function():
    from importlib import import_module

    for group in GROUPS.values():
        module = import_module(f"benchmarks.{group.module}")
        assert callable(getattr(module, group.function))


def test_what_is_not_measured_again_stays_in_the_result(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "speed.json"
    table.write(path, [a_row()])
    result = CliRunner().invoke(main, ["run", "--device", "cuda", "--json", str(path)])
    assert result.exit_code == 0
    assert table.read(path) == [a_row()]


@pytest.mark.parametrize("content", ["{", "{}x", "[1]", '[{"name": "training"}]', "5"])
@pytest.mark.parametrize("command", ["run", "check", "table"])
def test_a_file_that_is_no_result_is_refused_and_left_alone(tmp_path, command, content):
    path = tmp_path / "speed.json"
    path.write_text(content)
    given = ["--json", str(path)] if command == "run" else [str(path)]
    result = CliRunner().invoke(main, [command, *given])
    assert result.exit_code == 2
    assert f"{path} is no result of `benchmarks run`; name another" in result.output
    assert path.read_text() == content


def test_a_group_that_fails_loses_no_other_rows(tmp_path, monkeypatch):
    paths = [tmp_path / "rows.json", tmp_path / "speed.json"]

    def fail(settings):
        before.append([path.exists() and table.read(path) for path in paths])
        raise RuntimeError("out of luck")

    before = []
    groups = {"bad": fail, "good": lambda settings: [a_row()]}
    groups = {name: SimpleNamespace(measure=work) for name, work in groups.items()}
    monkeypatch.setattr(__main__, "GROUPS", groups)
    command = ["worker", TINY.text(), "good,bad", *map(str, paths)]
    assert CliRunner().invoke(main, command).exit_code == 1
    command[2] = "bad,good"
    for path in paths:
        assert table.read(path) == [a_row()]
        path.unlink()
    assert CliRunner().invoke(main, command).exit_code == 1
    for path in paths:
        assert table.read(path) == [a_row()]
    assert before == [[[a_row()]] * 2, [False] * 2]


def test_a_contestant_that_fails_is_left_out_and_named(capfd):
    makers = {
        ("nobody", "fp32"): Later("nowhere", "training_step"),
        ("ours", "fp32"): partial(networks.TRAINING["ours"], TINY, "fp32"),
    }
    with contestants.contestants(TINY, "training", makers) as works:
        assert list(works) == [("ours", "fp32")]
        assert works["ours", "fp32"].seconds(1) > 0
    assert "training: nobody, fp32 failed; left out." in capfd.readouterr().out


def test_a_share_of_the_peak_may_be_wanted_too():
    row = a_row(ratio=2.5, goal=2.0, goal_share=0.45, ours_share=0.5)
    assert row.met
    assert not replace(row, ours_share=0.4).met
    assert not replace(row, ratio=1.5).met


def test_unknown_rows_are_refused_by_name():
    result = CliRunner().invoke(main, ["run", "--rows", "training,speed"])
    assert result.exit_code == 2
    assert "--rows speed" in result.output


def test_operations_of_a_convolution_are_counted_by_torch_as_by_hand():
    """The peak counts multiplications and additions, as PyTorch's counter does."""
    images, channels, pixels, kernel = peak.CONVOLUTION["cpu"]
    layer = torch.nn.Conv2d(channels, channels, kernel, padding=1, device="meta")
    x = torch.empty(images, channels, pixels, pixels, device="meta")
    with peak.FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == peak._flops(TINY)["convolution"]


def test_training_asks_about_three_times_what_a_prediction_asks():
    forward = peak.operations(TINY, "ours", 4, training=False)
    both = peak.operations(TINY, "ours", 4, training=True)
    assert 2.5 < both / forward <= 3
    assert peak.operations(TINY, "ours", 8, training=False) == 2 * forward


@pytest.mark.parametrize("training", [False, True])
def test_the_convolutions_alone_are_those_of_the_network(training):
    """PyTorch counts as many operations in them as in the network's own."""

    def operations(call):
        with peak.FlopCounterMode(display=False) as counter:
            call()
        kinds = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
        counts = counter.get_flop_counts()["Global"]
        return sum(counts.get(kind, 0) for kind in kinds)

    network, t = TINY.network(), torch.zeros(4, dtype=torch.int64)
    x = torch.zeros(4, 3, 8, 8)
    alone = layers.found(TINY, layers.CONVOLUTIONS, 4)

    def whole():
        predicted = network(x, t)
        if training:
            predicted.sum().backward()

    def one_by_one():
        for layer in alone:
            result = layer(torch.zeros(layer.shape, requires_grad=not layer.first))
            if training:
                result.sum().backward()

    assert operations(one_by_one) == operations(whole) > 0


def test_the_layers_alone_are_all_of_the_network():
    found = [type(layer.module) for layer in layers.found(TINY, layers.LAYERS, 4)]
    modules = list(TINY.network().modules())
    upsamplers = sum(isinstance(module, Upsample) for module in modules)
    for kind in layers.LAYERS:
        expected = sum(isinstance(module, kind) for module in modules)
        if kind is torch.nn.Conv2d:
            expected -= upsamplers  # theirs are within
        assert found.count(kind) == expected > 0


@pytest.mark.parametrize(("training", "ways"), [(True, 2), (False, 3)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_layer_is_done_in_its_fastest_way(training, ways, precision, monkeypatch):
    took = {}

    def seconds(call, device):
        call()
        return took.setdefault(call, -len(took) % ways)

    monkeypatch.setattr(layers, "_seconds", seconds)
    chosen = layers._calls(TINY, DTYPES[precision], layers.LAYERS, 2, training)
    assert [took[call] for call in chosen] == [0] * len(chosen)
    assert len(took) == ways * len(chosen)
    layers.layers(TINY, precision, batch=2, training=training).seconds(1)


def test_the_peers_networks_are_of_our_size():
    conditions = settings_for("cpu", 1, 1)
    ours = conditions.network()
    wanted = ours.parameter_count
    assert UNet2DModel(**ours.diffusers_config()).num_parameters() == wanted
    lucidrains = peers.lucidrains_network(conditions, "meta")
    count = sum(weight.numel() for weight in lucidrains.parameters())
    assert count == pytest.approx(wanted, rel=0.15)


def test_a_tiny_real_comparison(monkeypatch):
    monkeypatch.setitem(peak.SIDE, "cpu", 32)
    monkeypatch.setitem(peak.CONVOLUTION, "cpu", (1, 8, 8, 3))
    rows = networks.training(TINY) + networks.sampling(TINY)
    names = {row.name for row in rows}
    assert {"training-fp32-diffusers", "training-bf16-beside-fp32-diffusers"} <= names
    assert {"sampling-2-fp32-diffusers", "sampling-2-bf16-lucidrains"} <= names
    for row in rows:
        assert row.ratio == pytest.approx(row.peer_s / row.ours_s)
        assert row.ours_s > 0 and row.ours_share > 0
        assert row.ours_bytes > 0 and row.peer_bytes > 0
        for bound in (row.ratio_convolutions, row.ratio_layers):
            assert (bound is not None) is ("diffusers" in row.name)


def test_the_most_memory_of_a_program_is_its_own(tmp_path):
    """A parent's memory is not counted, and what was freed again is."""
    code = "held = bytearray({}); del held"
    few, many = (
        resident.most_bytes(("-c", code.format(size)), tmp_path, environment())
        for size in (1, 200_000_000)
    )
    assert few < 60e6 < resident.peak_bytes()
    assert 195e6 < many - few < 215e6
    module = ("-m", "json.tool", "--help")
    assert 0 < resident.most_bytes(module, tmp_path, environment()) < 60e6
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        resident.most_bytes(("-c", "1 / 0"), tmp_path, environment())


def test_growth_has_no_ratio_that_a_faster_step_could_spoil(monkeypatch):
    monkeypatch.setitem(growth.VARIANTS, "cpu", (("tiny", 16),))
    training, sampling = growth.measure(TINY)
    assert (training.name, sampling.name) == (
        "growth-training-tiny-16",
        "growth-sampling-tiny-16",
    )
    for row in (training, sampling):
        assert row.ratio is None
        assert row.ours_bytes > 0 and row.peer_bytes > 0
        assert f"{row.ours_s / row.peer_s:.2g} times the time" in row.note


def test_the_fréchet_distances_that_are_timed_are_the_same():
    samples, reference = frechet.features(64, 16, 512)
    cached = Statistics.of(reference, "test", "")
    theirs = frechet.torch_fidelity(
        samples, {"mu": cached.mean, "sigma": cached.covariance}
    )
    assert frechet_distance(samples, cached) == pytest.approx(theirs, rel=1e-6)


# Orchestration

LOG = """\
SNAKEMAKE
=========
  Date: 2026-01-02 23:59:50

Provided cores: 2
[Fri Jan 02 23:59:51 2026]
localrule preprocess:
    output: results/demo/data/a/images.npy
    benchmark: results/demo/benchmarks/preprocess/a.tsv
    wildcards: study=demo, dataset=a
    threads: 2
[Fri Jan 02 23:59:55 2026]
Finished jobid: 2 (Rule: preprocess)
1 of 3 steps (33%) done
[Fri Jan 02 23:59:55 2026]
localrule train:
    benchmark: results/demo/benchmarks/train/a.tsv
    jobid: 1
[Sat Jan 03 00:00:05 2026]
Finished jobid: 1 (Rule: train)
2 of 3 steps (67%) done
localrule all:
    input: results/demo/models/a
    jobid: 0
[Sat Jan 03 00:00:10 2026]
Finished jobid: 0 (Rule: all)
3 of 3 steps (100%) done
"""


# MiB; Snakemake has none of a job that ends before it looks.
RESIDENT = {"preprocess": "-", "train": "500.5"}


@pytest.fixture
def finished(tmp_path):
    """Return a study's folder, its log and benchmark files: 4 s on 2 slots and 16 s."""
    folder = tmp_path / "results" / "demo"
    for name, seconds in (("preprocess", 4.0), ("train", 16.0)):
        path = folder / "benchmarks" / name / "a.tsv"
        path.parent.mkdir(parents=True)
        path.write_text(f"s\tmax_rss\n{seconds}\t{RESIDENT[name]}\n")
    logs = tmp_path / ".snakemake" / "log"
    logs.mkdir(parents=True)
    (logs / "2026-01-02T235950.1.snakemake.log").write_text(LOG)
    (logs / "2026-01-03T100000.1.snakemake.log").write_text("Nothing to be done")
    return folder


def test_orchestration_is_wall_time_beside_the_stages_own_work(finished):
    row = orchestration.measure(TINY, finished)
    assert (row.ours_s, row.peer_s) == (20.0, (2 * 4.0 + 16.0) / 2)
    assert row.ratio == pytest.approx(0.6)
    assert row.met is False
    assert row.ours_bytes == 500.5 * 2**20


def test_an_unfinished_study_is_refused_in_a_sentence(finished, tmp_path):
    log = next((tmp_path / ".snakemake/log").glob("2026-01-02*"))
    log.write_text(LOG.replace("3 of 3 steps (100%)", "2 of 3 steps (67%)"))
    result = CliRunner().invoke(main, ["orchestration", str(finished)])
    assert result.exit_code == 2
    assert "run the study again" in result.output


def test_a_job_that_was_run_again_later_belongs_to_no_whole_run(finished):
    again = finished / "benchmarks" / "train" / "a.tsv"
    os.utime(again, (time.time() + 60, time.time() + 60))
    with pytest.raises(FileNotFoundError, match="run the study again"):
        orchestration.measure(TINY, finished)


def test_a_later_run_of_a_part_is_not_taken_for_the_whole(finished, tmp_path):
    part = LOG.split("localrule train:")[0] + "1 of 1 steps (100%) done\n"
    (tmp_path / ".snakemake/log/2026-01-04T000000.1.snakemake.log").write_text(part)
    assert orchestration.parse(part).wall_s == 5.0
    assert orchestration.measure(TINY, finished).ours_s == 20.0


def test_a_row_says_what_it_was_measured_on():
    row = make_row(TINY, "name", "work")
    assert row.kind == "cpu"
    assert row.device and "thread" not in row.device
    assert row.torch == torch.__version__
