"""Chains that a source brings: what is taken, what is rejected for which reason, and what becomes of their depths."""

from __future__ import annotations

from pathlib import Path

import pytest

from sifthinker.annotation import taken
from sifthinker.core import boxes, chain, depth_maps
from sifthinker.core.records import WHOLE, Annotation, Reject, Sample
from tests.published_rows import WAYS, Way, chains, changed, numbered, rewritten, swapped
from tests.small_part import BOX


def test_a_sound_chain_is_taken_as_it_is_without_a_call(tmp_path: Path) -> None:
    rows, out, maps = numbered(tmp_path, 6)
    kept, rejects, measured = chains(rows, out, maps)
    assert not rejects
    assert sorted(row.chain for row in kept) == sorted(row["messages"][1]["content"] for row in rows)
    for row in kept:
        assert (row.model, row.attempts, row.prompt_tokens, row.completion_tokens, row.repairs) == (
            *("published", 0, 0, 0),
            (),
        )
        assert [[region.box for region in step] for step in row.steps] == [[WHOLE], [BOX]]
    assert (measured.chains, measured.depths, measured.depths_right, measured.pictures) == (6, 12, 12, 3)
    assert measured.depths_off == 0
    assert measured.pictures_off / measured.pictures < 0.004  # of 256 colours


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
def test_each_way_to_damage_a_row_has_its_reason(tmp_path: Path, way: Way) -> None:
    rows, out, maps = numbered(tmp_path, 4)
    rows[2] = way.damage(rows[2])
    kept, rejects, _ = chains(rows, out, maps, depths="check")
    if way.reason:
        assert [(row.reason, row.row) for row in rejects] == [(way.reason, 2)]
        assert rejects[0].detail and rejects[0].file == "rows.json"
    else:
        assert not rejects
        plain = chain.render(chain.parse(rows[0]["messages"][1]["content"]))
        assert {row.chain for row in kept} == {plain}  # canonical, whatever was around it
    assert len(kept) + len(rejects) == 4


def test_a_source_without_a_depth_map_is_a_reject(tmp_path: Path) -> None:
    rows, out, maps = numbered(tmp_path, 3)
    kept, rejects, _ = chains(rows, out, maps[1:])
    assert len(kept) == 2
    assert [row.reason for row in rejects] == ["depth-missing"]


# --- Depths ------------------------------------------------------------------------------------------------

SAID = "At 0.372 it is nearer than the 0.500 of the whole."
OFF = swapped('"depth": 0.372', '"depth": 0.455')  # our map: 0.372


def test_depths_are_replaced_by_those_of_our_map_and_the_difference_is_measured(tmp_path: Path) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    (kept,), _, measured = chains([OFF(row)], out, maps)
    assert [region.depth for step in chain.parse(kept.chain).steps for region in step.regions] == [0.5, 0.372]
    assert kept.repairs == ("depths-replaced",)
    assert measured.depths_off == pytest.approx(0.083)
    assert measured.depths_right == 2


def test_depths_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    (kept,), _, _ = chains([OFF(row)], out, maps, depths="keep")
    assert '"depth": 0.455' in kept.chain
    assert kept.steps[1][0].depth == 0.372  # what is right is beside it


@pytest.mark.parametrize(("tolerance", "reasons"), [(0.1, []), (0.083, []), (0.08, ["depths"])])
def test_depths_are_checked_where_that_is_asked_for(
    tmp_path: Path, tolerance: float, reasons: list[str]
) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    kept, rejects, _ = chains([OFF(row)], out, maps, depths="check", depth_tolerance=tolerance)
    assert [row.reason for row in rejects] == reasons
    assert all('"depth": 0.455' in row.chain for row in kept)


def said(text: str, depth: str = "0.455"):  # type: ignore[no-untyped-def]
    """The last text of a chain says this, and its last area has that depth."""

    def change(old: str) -> str:
        before, _, rest = old.rpartition("<text>")
        before = before.replace('"depth": 0.372', f'"depth": {depth}')
        return f"{before}<text>{text}</text>{rest.partition('</text>')[2]}"

    return rewritten(change)


@pytest.mark.parametrize(
    ("text", "depth", "becomes"),
    [
        ("Its depth of 0.455 is small.", "0.455", "Its depth of 0.372 is small."),
        ("About 0.47 away.", "0.455", "About 0.47 away."),  # not its number
        ("About 0.43 away.", "0.434", "About 0.37 away."),  # to as many decimals
        ("Of 0.455, nearer than 0.500.", "0.455", "Of 0.372, nearer than 0.500."),
        ("Three of 12.455 m.", "0.455", "Three of 12.455 m."),  # no number of the chain's
        ("At 0.25 it begins.", "0.455", "At 0.25 it begins."),  # its box, which stays
        ("Of 0.650, farther than 0.500.", "0.65", None),  # nearer, by our map
    ],
)
def test_a_text_that_names_a_depth_says_ours_or_is_rejected(
    tmp_path: Path, text: str, depth: str, becomes: str | None
) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    kept, rejects, _ = chains([said(text, depth)(row)], out, maps)
    if becomes is None:
        assert [row.reason for row in rejects] == ["number-said"]
    else:
        assert chain.parse(kept[0].chain).steps[-1].text == becomes


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        # On the square 0.280 is less than 0.312. On the image it is more than the 0.249 that this becomes.
        ("It is in [0.280, 0.312, 0.750, 0.500].", "It is in [0.280, 0.249, 0.750, 0.500]."),
        ("From 0.312 on, at a depth of {mine}.", "From 0.249 on, at a depth of {ours}."),
        ("At {mine}, behind the 0.500 of the whole.", None),  # depths, and by our map it is before it
    ],
)
def test_a_text_may_recite_a_box_whose_coordinates_change_their_order(
    tmp_path: Path, text: str, becomes: str | None
) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    box = (0.28, *BOX[1:])
    on_canvas = [round(value, 3) for value in boxes.to_padded(box, 64, 48)]
    assert on_canvas == [0.28, 0.312, 0.75, 0.5]
    row = changed("normalized_solution_round.bbox_3d", [on_canvas])(row)
    row = swapped("[0.25, 0.25, 0.75, 0.5]", str(on_canvas))(row)
    row = said(text.format(mine="0.655"), "0.655")(row)
    kept, rejects, _ = chains([row], out, maps, frame="padded")
    if becomes is None:
        assert [(one.reason, "compares depths" in one.detail) for one in rejects] == [("number-said", True)]
        return
    (last,) = kept[0].steps[-1]
    assert chain.parse(kept[0].chain).steps[-1].text == becomes.format(ours=f"{last.depth:.3f}")


def test_the_chain_of_a_box_on_the_padded_square_is_brought_to_the_image(tmp_path: Path) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    on_canvas = [round(value, 3) for value in boxes.to_padded(BOX, 64, 48)]
    row = changed("normalized_solution_round.bbox_3d", [on_canvas])(row)
    row = swapped("[0.25, 0.25, 0.75, 0.5]", str(on_canvas))(row)
    (kept,), _, _ = chains([row], out, maps, frame="padded")
    ours = depth_maps.decode_bytes(maps[0].png)
    (whole,), (last,) = kept.steps
    assert whole.box == WHOLE  # of the image, as the release draws it
    assert last.box == pytest.approx(BOX, abs=0.002)
    assert last.depth == round(depth_maps.box_depth(ours, last.box), 3)
    assert chain.parse(kept.chain).steps[1].regions == (last,)


def test_a_box_in_the_margin_of_the_padded_square_is_a_reject(tmp_path: Path) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    row = changed("normalized_solution_round.bbox_3d", [[0.3, 0.4, 0.6, 0.6]])(row)
    row = swapped("[0.25, 0.25, 0.75, 0.5]", "[0.3, 0.4, 0.6, 0.6]")(row)
    row = swapped("</text>\n<area>", '</text>\n<area>[{"bbox_2d": [0.1, 0.0, 0.5, 0.1], "depth": 0.2}]</area>\n'
                  "<text>No.</text>\n<area>")(row)  # fmt: skip
    kept, (reject,), _ = chains([row], out, maps, frame="padded")
    assert not kept
    assert reject.reason == "margin" and "area 2" in reject.detail


# --- Answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "answer", "kept"),
    [
        ("window", "It is a window.", True),
        ("a red coat", "The coat is red.", True),  # shares words: only a judge could say more
        ("red", "blue", False),  # shares none
        ("the cat", "the dog", False),  # an article is nothing
        (3, "There are 3 of them.", True),
        (3, "There are 4 of them.", False),
        (3, "There are 3 cars; 2 are red.", True),
        (3, "There are 13 cars and 5 buses.", False),  # no part of a number
        (3, "3 or 4", False),
        ("yes", "no", False),
        ("yes", "Yes, there is no other dog.", True),
        ("no", "Nothing is known of it.", False),  # no part of a word
        ("窗户", "这是窗户", True),
    ],
)
def test_an_answer_is_taken_if_it_says_the_reference_or_a_word_of_it(
    tmp_path: Path, reference: str | int, answer: str, kept: bool
) -> None:
    (row,), out, maps = numbered(tmp_path, 1)
    row = changed("response", reference)(swapped("\nA cat\n", f"\n{answer}\n")(row))
    found, rejects, _ = chains([row], out, maps)
    assert bool(found) is kept
    assert [row.reason for row in rejects] == ([] if kept else ["answer"])


# --- Taken and bought, exactly so many ----------------------------------------------------------------------


def some(count: int) -> list[Sample]:
    about = ("q", "a", "x.jpg", "sha", 10, 10, ((0.1, 0.1, 0.5, 0.5),))
    return [Sample(f"s/d/{n}", "s", "d", "train", *about) for n in range(count)]


def kept_chain(id: str) -> Annotation:
    return Annotation(id, (), "", "m", 0, 0, 0, ())


def test_taken_and_bought_rows_come_out_in_the_order_of_the_samples() -> None:
    rows = some(5)
    found = {rows[n].id: kept_chain(rows[n].id) for n in (1, 3)}
    bought = iter([kept_chain(rows[n].id) for n in (0, 2, 4)])
    assert [row.id for row in taken.merged(rows, dict(found), bought)] == [row.id for row in rows]


@pytest.mark.parametrize(("most", "kept"), [(None, 3), (2, 2), (0, 0), (9, 3)])
def test_of_taken_chains_so_many_are_kept_as_are_wanted(most: int | None, kept: int) -> None:
    rows = some(4)
    found: dict[str, Annotation | Reject] = {row.id: kept_chain(row.id) for row in rows}
    found[rows[0].id] = Reject("annotate", "boxes", "", rows[0].id)
    chosen = taken.chosen(rows, found, most)
    assert sum(isinstance(row, Annotation) for row in chosen.values()) == kept
    assert len(chosen) == 4
    reasons = {row.reason for row in chosen.values() if isinstance(row, Reject)}
    assert reasons == {"boxes"} | ({"not-needed"} if kept < 3 else set())
