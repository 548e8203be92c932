"""Images of one's own: from folders or a CSV, of any size and format; what cannot be trained on is named, and nothing is half done."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repro.config.compose import compose
from repro.config.registry import get
from repro.data.prepare import prepare
from repro.data.types import RawDataset
from repro.errors import UserError
from repro.training.run import execute

NAMES, CPU = ("sea lion", "Käfer", "<b>bold</b>"), torch.device("cpu")


def listed(root: Path, text: str) -> Path:
    """Make twelve images, whose red part is ten times their number, and a CSV with ``text``."""
    root.mkdir()
    for index in range(12):
        Image.new("RGB", (9, 7), (10 * index, 200, 10)).save(root / f"{index}.png")
    (root / "labels.csv").write_text(text, encoding="utf-8-sig")
    return root


def lines(*, more: str = "", header: str = "file,label") -> str:
    return "\n".join([header, *(f'{index}.png,"{NAMES[index % 3]}"{more}' for index in range(12))])


def load(root: Path, **settings: Any) -> RawDataset:
    choice = get("dataset", "image_folder")
    return choice.build(choice.config(name="image_folder", folder=root.name, side=8, **settings), root.parent)


def of_csv(root: Path) -> RawDataset:
    return load(root, labels="labels.csv")


@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_a_folder_a_class_of_any_size_and_format(tmp_path: Path, parts: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    """Gray images have one channel; a test set that is not given is drawn class by class."""
    for (label, name), part, index in itertools.product(enumerate(("b", "c", "é")), parts, range(6)):
        folder = tmp_path / "mine" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8 + index, 9), 100 * label + 10 * index + len(part)).save(
            folder / f"{index}.{('png', 'jpg')[index % 2]}", quality=100
        )
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    raw, size = load(tmp_path / "mine", test_fraction=0.5), 3 * len(parts)
    assert raw.class_names == ("b", "c", "é")
    for images in (raw.train, raw.test):
        assert images.images.shape == (3 * size, 1, 8, 8)
        assert images.labels.tolist() == [0] * size + [1] * size + [2] * size
        assert (images.images[:, 0, 4, 4] // 100).tolist() == images.labels.tolist()
    assert [int(file.split("/")[-1][0]) for file in raw.train_files] == (raw.train.images[:, 0, 4, 4] % 100 // 10).tolist()
    assert caplog.messages == [f"by their names no images, and left out: {folder / 'notes.txt'}."]


def test_a_csv_says_labels_splits_and_what_is_verified(tmp_path: Path) -> None:
    rows = [f"{index}.png, {NAMES[index % 3]} ,{('train', '', 'test')[index // 4]},{'yes' if index < 3 else ''},x" for index in range(12)]
    raw = of_csv(listed(tmp_path / "mine", "\n".join(["file,label,split,verified,score", *rows])))
    assert raw.class_names == tuple(sorted(NAMES))
    assert raw.train_files == tuple(f"{index}.png" for index in range(8))
    assert raw.train.images[:, 0, 0, 0].tolist() == list(range(0, 80, 10))
    assert [raw.class_names[label] for label in raw.test.labels] == [NAMES[index % 3] for index in range(8, 12)]
    assert raw.verified is not None
    assert raw.verified.tolist() == [True] * 3 + [False] * 5


def test_sixteen_bits_and_an_orientation_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    root, turned, exif = (
        listed(tmp_path / "mine", lines(more=",train", header="file,label,split") + "\n12.png,Käfer,test"),
        Image.new("L", (8, 8)),
        Image.Exif(),
    )
    Image.new("L", (8, 8)).save(root / "12.png")
    Image.fromarray(np.full((8, 8), 51 * 256, np.uint16)).save(root / "0.png")
    turned.paste(255, (0, 0, 8, 4))
    exif[0x0112] = 3  # upside down
    turned.save(root / "1.png", exif=exif)
    first, second = of_csv(root).train.images[:2, 0]
    assert (first == 51).all()
    assert second[:, 0].tolist() == [0] * 4 + [255] * 4


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda whole: b"not an image", r"5\.png cannot be read as an image \("),
        (lambda whole: whole[:-30], r"5\.png cannot be read as an image \(.*truncated"),
        (None, r"[25]\.png is the same image as [25]\.png\."),
    ],
)
def test_an_image_that_cannot_be_used_is_named_and_nothing_is_kept(tmp_path: Path, made: Any, words: str) -> None:
    root = listed(tmp_path / "mine", lines())
    (root / "5.png").write_bytes((made or bytes)((root / "2.png").read_bytes()))
    with pytest.raises(UserError, match=words) as caught:
        of_csv(root)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / ".decoded").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lines(header="name;label"), r"labels\.csv:1: there is no column file, label\."),
        (lines() + "\n12.png,b", r"labels\.csv:14: there is no file .*12\.png\."),
        (lines() + "\n0.png,b", r"labels\.csv:14: 0\.png is listed already, at .*:2\."),
        (lines() + "\n11.png, a, b", r"labels\.csv:14: it has more or fewer fields"),
        (lines().replace("sea lion", " ", 1), r"labels\.csv:2: label: Field required\."),
        (
            lines().replace("sea lion", "a\x1b[31m", 1),
            r"labels\.csv:2: label: .*it is empty, or has characters that cannot be shown: 'a.x1b.31m'",
        ),
        (lines().replace("sea lion", "rare", 1), r"labels\.csv:2: rare is the label of one image only"),
        (lines(more=",val", header="file,label,split"), r"labels\.csv:2: split: Input should be 'train' or 'test'\."),
        (lines(more=",maybe", header="file,label,verified"), r"labels\.csv:2: verified: Input should be a valid boolean"),
        ("file,label\n0.png,a\n1.png,a", "two classes or more, and there are 1"),
        (lines(more=",test", header="file,label,split"), "no training image has the label <b>bold</b>, Käfer, sea lion"),
    ],
)
def test_a_mistake_in_a_csv_is_named_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        of_csv(listed(tmp_path / "mine", text))
    assert len(str(caught.value).splitlines()) == 1


def test_images_are_decoded_once_and_again_when_one_or_what_is_kept_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root, decoded = listed(tmp_path / "mine", lines()), []
    before = Image.open
    monkeypatch.setattr(Image, "open", lambda *given: decoded.append(1) or before(*given))

    def count() -> int:
        decoded.clear()
        of_csv(root)
        return len(decoded)

    assert (count(), count()) == (12, 0)
    Image.new("L", (30, 30)).save(root / "3.png")
    assert (count(), count()) == (12, 0)
    (kept,) = (tmp_path / ".decoded").iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    assert (count(), count()) == (12, 0)
    assert f"{kept} is damaged" in caplog.text


def config(root: Path, *more: str) -> Any:
    given = ["method=instance_labels", "dataset=image_folder", f"dataset.folder={root.name}", "dataset.labels=labels.csv", "dataset.side=8"]
    paths = [f"paths.data={root.parent}", f"paths.runs={root.parent / 'runs'}", "tracker=none", "exec.threads=1"]
    return compose([*given, *paths, "seed=0", "optim.epochs=1", "optim.batch_size=4", "meta.batch_size=2", *more])


def test_verified_images_are_the_meta_set_and_others_in_it_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    marks = [f"{index}.png,{'ab'[index % 2]},{'true' if index in (1, 4, 6, 7) else ''}" for index in range(12)]
    root = listed(tmp_path / "mine", "\n".join(["file,label,verified", *marks]))
    run = prepare(config(root, "split=verified", "dataset.test_fraction=0.1"), CPU)
    assert run.meta is not None
    assert set(run.meta.images[:, 0, 0, 0].tolist()) <= {10, 40, 60, 70}
    assert not {10, 40, 60, 70} & set(run.train.images[:, 0, 0, 0].tolist())
    assert not caplog.messages
    prepare(config(root, "split.meta_size=2"), CPU)
    assert caplog.messages == ["the 2 images of the meta set are taken to be labelled rightly, which nobody has verified."]
    (root / "labels.csv").write_text("\n".join(["file,label", *(line.rsplit(",", 1)[0] for line in marks)]))
    with pytest.raises(UserError, match=r"split=verified: 0 of 11 training images are marked as verified"):
        prepare(config(root, "split=verified", "dataset.test_fraction=0.1"), CPU)


def test_a_finished_run_is_not_taken_for_one_on_labels_that_were_changed_since(tmp_path: Path) -> None:
    root = listed(tmp_path / "mine", lines())
    settings = config(root, "split.meta_size=2")
    assert execute(settings) == execute(settings)
    (root / "labels.csv").write_text(lines().replace("sea lion", "Käfer", 1))
    with pytest.raises(UserError, match=r"was trained on other images, labels or splits than the dataset has now"):
        execute(settings)
