"""What the table means in words: true of the numbers, short, and honest about noise."""

from __future__ import annotations

import pytest

from edge.accuracy.table import Change, StepName, StepResult, explain, within_noise
from edge.measure.scores import Score
from edge.measure.statistics import mcnemar, paired_interval

N = 500


def change(lost: int, gained: int, n: int = N) -> Change:
    low, high = paired_interval(lost, gained, n)
    return Change(100 * (gained - lost) / n, (100 * low, 100 * high), lost, gained, mcnemar(lost, gained))


def step(
    name: StepName,
    before: StepName | None = None,
    lost: int = 0,
    gained: int = 0,
    *,
    right: int = 350,
    n: int = N,
    changed: int | None = None,
    identical: int = 0,
    labelled: bool = True,
    agreement: int | None = None,
) -> StepResult:
    same = n - (lost + gained if changed is None else changed)
    return StepResult(
        name=name,
        by="a test",
        n=n,
        score=Score(n, right, n) if labelled else None,
        before=before,
        change=change(lost, gained, n) if before and labelled else None,
        agreement=same if agreement is None else agreement,
        cosine=0.99,
        agreement_before=same if before else None,
        cosine_before=0.99 if before else None,
        seconds=1.0,
        computed=n,
        identical_before=identical if before else None,
        agreement_with="nv12" if before and name != "nv12" else "float",
    )


def test_a_change_within_noise_says_so() -> None:
    steps = [step("float"), step("nv12", "float", 8, 6), step("quantized", "nv12", 9, 5)]
    verdict, sentences = explain(steps, "quantized", change(12, 6), "")
    assert sentences[0].startswith("NV12 costs 0.4 points (95 % ")
    assert "within noise (p = 0.79); 14 answers changed, 8 to wrong and 6 to right" in sentences[0]
    assert sentences[1].startswith("Quantization costs 0.8 points")
    assert sentences[-1].startswith("No step costs more than noise")
    assert verdict.startswith("Quantization, NV12 included, costs 1.2 points (95 % ")
    assert "within noise" in verdict


def test_a_real_loss_is_named_with_its_step() -> None:
    steps = [
        step("float"),
        step("nv12", "float", 3, 2),
        step("calibrated", "nv12", 45, 5),
        step("quantized", "calibrated", 2, 2),
    ]
    verdict, sentences = explain(steps, "quantized", change(46, 6), "")
    assert "costs 8.0 points" in sentences[1]
    assert "beyond noise (p < 0.001)" in sentences[1]
    assert sentences[2].startswith("Integer arithmetic leaves Top-1 as it is")
    assert sentences[-1] == "The largest cost is at calibrated: 8.0 points."
    assert "beyond noise" in verdict


def test_small_losses_that_add_up_are_not_pinned_on_a_step() -> None:
    steps = [step("float"), step("nv12", "float", 9, 3), step("quantized", "nv12", 10, 3)]
    _, sentences = explain(steps, "quantized", change(17, 4), "")
    assert sentences[-1].startswith("The whole loss is beyond noise, but no single step is")


def test_equal_scores_are_called_equal() -> None:
    steps = [
        step("float"),
        step("simplified", "float", identical=N),
        step("quantized", "simplified"),
        step("program", "quantized", n=10, right=7, identical=10),
        step("portable", "quantized", identical=N),
    ]
    _, sentences = explain(steps, "quantized", change(0, 0), "")
    assert sentences[0] == "The simplifier gives the scores of float bit for bit on all 500 images."
    assert sentences[1] == "Quantization changes no answer on 500 images."
    assert sentences[2] == (
        "The compiled program gives the scores of quantized bit for bit on the 10 images it was tried on."
    )
    assert sentences[3] == "The portable model gives the scores of quantized bit for bit on all 500 images."


def test_a_program_that_differs_is_never_called_equal() -> None:
    steps = [step("float"), step("quantized", "float"), step("program", "quantized", 1, 0, n=10, identical=9)]
    _, sentences = explain(steps, "quantized", change(0, 0), "")
    assert sentences[1].startswith("The compiled program costs 10.0 points")
    assert "bit for bit" not in " ".join(sentences)


def test_without_labels_only_agreement_is_told() -> None:
    steps = [
        step("float", labelled=False),
        step("nv12", "float", changed=12, labelled=False),
        step("quantized", "nv12", changed=20, labelled=False, agreement=470),
    ]
    verdict, sentences = explain(steps, "quantized", None, "no labels here")
    assert verdict.startswith(
        "The program gives the float network's answer behind NV12 on 94.0 % of 500 images (95 % 91.6 to "
    )
    assert "without labels" in verdict
    assert sentences[0] == "NV12 changes the answer on 12 of 500 images (2.4 %)."
    assert "no labels here" in sentences[-1]
    assert not any(word in " ".join((verdict, *sentences)) for word in ("Top-1 6", "points", "noise"))


def test_one_image() -> None:
    steps = [step("float", n=1, right=1), step("quantized", "float", 1, 0, n=1, right=0)]
    verdict, sentences = explain(steps, "quantized", change(1, 0, 1), "")
    assert "costs 100.0 points" in verdict
    assert "within noise (p = 1.00)" in verdict
    assert len(sentences) == 2


def test_float_alone() -> None:
    verdict, sentences = explain([step("float")], "float", None, "")
    assert verdict == "The float network is right on 70.00 % of 500 images."
    assert sentences == ()


@pytest.mark.parametrize(
    ("lost", "gained", "n", "noise"), [(0, 0, 500, True), (5, 0, 500, True), (6, 0, 500, False), (60, 20, 500, False)]
)
def test_what_counts_as_noise(lost: int, gained: int, n: int, noise: bool) -> None:
    assert within_noise(change(lost, gained, n)) is noise


@pytest.mark.parametrize(("lost", "gained"), [(8, 2), (5, 0), (9, 2), (6, 0), (20, 8)])
def test_the_interval_never_contradicts_the_verdict(lost: int, gained: int) -> None:
    _, sentences = explain([step("float"), step("quantized", "float", lost, gained)], "quantized", None, "")
    low = float(sentences[0].partition("(95 % ")[2].partition(" to ")[0])
    assert ("within noise" in sentences[0]) is (low <= 0)
