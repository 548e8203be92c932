"""Images of one's own: from folders or a CSV, of any size and format; what cannot be trained on is named, and nothing is half done."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repro.config.compose import compose
from repro.config.registry import get
from repro.data.decoded_images import statistics
from repro.data.prepare import RunData, prepare
from repro.data.types import RawDataset
from repro.errors import UserError
from repro.training.run import execute

NAMES = ("sea lion", "Käfer", "<b>bold</b>")


def picture(number: int, *, gray: bool = False, size: tuple[int, int] = (9, 7)) -> Image.Image:
    """Return an image of one colour, whose red part is its number."""
    return Image.new("L", size, number) if gray else Image.new("RGB", size, (number, 200, 10))


def folders(root: Path, *, below: tuple[str, ...] = ("",), count: int = 6, gray: bool = False) -> Path:
    """Make ``count`` images of each of three classes below each of the folders ``below``."""
    number = 0
    for part in below:
        for name in ("sea lion", "Käfer", "b"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                number += 1
                suffix = ("png", "jpg", "bmp")[index % 3]
                picture(number, gray=gray, size=(8 + index, 9)).save(root / part / name / f"{index}.{suffix}", quality=100)
    return root


def listed(root: Path, text: str, *, count: int = 12) -> Path:
    """Make ``count`` images, and a CSV with ``text``."""
    root.mkdir(exist_ok=True)
    for index in range(count):
        picture(10 * index).save(root / f"{index}.png")
    (root / "labels.csv").write_text(text, encoding="utf-8-sig")
    return root


def lines(*, split: str = "", header: str = "file,label") -> str:
    return "\n".join([header, *(f'{index}.png,"{NAMES[index % 3]}"{split}' for index in range(12))])


def load(root: Path, **settings: Any) -> RawDataset:
    choice = get("dataset", "image_folder")
    return choice.build(choice.config(name="image_folder", folder=root.name, side=8, **settings), root.parent)


def test_a_folder_a_class_of_any_size_and_format_and_a_test_set_drawn_class_by_class(tmp_path: Path) -> None:
    raw = load(folders(tmp_path / "mine"), test_fraction=0.5)
    assert raw.class_names == ("Käfer", "b", "sea lion")
    assert (raw.train.images.shape, raw.test.images.shape) == ((9, 3, 8, 8), (9, 3, 8, 8))
    assert np.bincount(raw.train.labels).tolist() == np.bincount(raw.test.labels).tolist() == [3, 3, 3]
    # Each image has its label and its file: red is the number of the image.
    for image, label, file in zip(raw.train.images, raw.train.labels, raw.train_files, strict=True):
        name, index = file.split("/")
        assert name == raw.class_names[label]
        number = 6 * ("sea lion", "Käfer", "b").index(name) + int(index[0]) + 1
        assert abs(int(image[0, 4, 4]) - number) <= 2
    assert raw.verified is not None
    assert not raw.verified.any()


def test_given_test_images_gray_ones_and_hidden_or_other_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folders(tmp_path / "mine", below=("train", "test"), gray=True)
    (root / "train" / "b" / ".DS_Store").write_bytes(b"x")
    (root / "train" / "b" / "notes.txt").write_text("x")
    raw = load(root)
    assert (raw.train.images.shape, raw.test.images.shape) == ((18, 1, 8, 8), (18, 1, 8, 8))
    assert raw.train_files[0] == "train/Käfer/0.png"
    assert caplog.messages == [f"by their names no images, and left out: {root / 'train/b/notes.txt'}."]


def test_a_csv_says_labels_splits_and_what_is_verified(tmp_path: Path) -> None:
    split = [f"{index}.png, {NAMES[index % 3]} ,{('train', '', 'TEST')[index // 4]},{'yes' if index < 3 else ''},x" for index in range(12)]
    raw = load(listed(tmp_path / "mine", "\n".join(["file,label,split,verified,score", *split])), labels="labels.csv")
    assert raw.class_names == tuple(sorted(NAMES))
    assert raw.train_files == tuple(f"{index}.png" for index in range(8))
    assert raw.train.images[:, 0, 0, 0].tolist() == [10 * index for index in range(8)]
    assert [raw.class_names[label] for label in raw.test.labels] == [NAMES[index % 3] for index in range(8, 12)]
    assert raw.verified is not None
    assert np.flatnonzero(raw.verified).tolist() == [0, 1, 2]


def test_sixteen_bits_and_an_orientation_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    root = folders(tmp_path / "mine", below=("train", "test"), gray=True)
    Image.fromarray(np.full((8, 8), 51 * 256, np.uint16)).save(root / "train/b/0.png")
    turned = Image.new("L", (8, 8))
    turned.paste(255, (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    turned.save(root / "train/b/1.jpg", exif=exif, quality=100)
    raw = load(root)
    place = raw.train_files.index("train/b/0.png")
    assert (raw.train.images[place] == 51).all()
    assert raw.train.images[place + 1, 0, 0, 0] < 9
    assert raw.train.images[place + 1, 0, 7, 0] > 246


def truncated() -> bytes:
    written = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8)).save(written, "png")
    return written.getvalue()[:900]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"5\.png: it cannot be read as an image: "),
        (b"not an image", r"5\.png: it cannot be read as an image: "),
        (truncated(), r"5\.png: it cannot be read as an image: .*truncated"),
        (None, r"[25]\.png: it is the same image as [25]\.png\."),
    ],
)
def test_an_image_that_cannot_be_used_is_named_and_nothing_is_kept(tmp_path: Path, content: bytes | None, words: str) -> None:
    root = listed(tmp_path / "mine", lines())
    (root / "5.png").write_bytes((root / "2.png").read_bytes() if content is None else content)
    with pytest.raises(UserError, match=words) as caught:
        load(root, labels="labels.csv")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / ".decoded").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lines(header="name;label"), r"labels\.csv:1: there is no column file, label\."),
        (lines() + "\n12.png,b", r"labels\.csv:14: there is no file .*12\.png\."),
        (lines() + "\n0.png,b", r"labels\.csv:14: 0\.png is listed already, at .*:2\."),
        (lines() + "\n11.png, a, b", r"labels\.csv:14: it has more or fewer fields"),
        (lines().replace("sea lion", " ", 1), r"labels\.csv:2: the label is empty"),
        (
            lines().replace("sea lion", "a\x1b[31m", 1),
            r"labels\.csv:2: the label is empty, or has characters that cannot be shown: 'a.x1b.31m'",
        ),
        (lines().replace("sea lion", "rare", 1), r"labels\.csv:2: rare is the label of one image only"),
        (lines(split=",val", header="file,label,split"), r"labels\.csv:2: split is val, and must be train or test"),
        (lines(split=",maybe", header="file,label,verified"), r"labels\.csv:2: verified is maybe, and must be true or false"),
        ("file,label\n0.png,a\n1.png,a", "two classes or more, and there are 1"),
        (lines(split=",test", header="file,label,split"), "no training image has the label <b>bold</b>, Käfer, sea lion"),
    ],
)
def test_a_mistake_in_a_csv_is_named_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load(listed(tmp_path / "mine", text), labels="labels.csv")
    assert len(str(caught.value).splitlines()) == 1


def test_images_are_decoded_once_and_again_when_one_or_what_is_kept_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root, decoded = listed(tmp_path / "mine", lines()), []
    before = Image.open
    monkeypatch.setattr(Image, "open", lambda *given: decoded.append(1) or before(*given))

    def count() -> int:
        decoded.clear()
        load(root, labels="labels.csv")
        return len(decoded)

    assert (count(), count()) == (12, 0)
    picture(255, size=(30, 30)).save(root / "3.png")
    assert (count(), count()) == (12, 0)
    (kept,) = (tmp_path / ".decoded").iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    assert (count(), count()) == (12, 0)
    assert f"{kept} is damaged" in caplog.text


def test_statistics() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (5, 2, 4, 4)).astype(np.uint8)
    wanted = pixels.transpose(1, 0, 2, 3).reshape(2, -1) / 255.0
    np.testing.assert_allclose(statistics(pixels), [wanted.mean(axis=1), wanted.std(axis=1)])
    assert statistics(pixels[:1] * 0) == ((0.0, 0.0), (1.0, 1.0))


def config(root: Path, *more: str) -> Any:
    given = ["method=instance_labels", "dataset=image_folder", f"dataset.folder={root.name}", "dataset.labels=labels.csv", "dataset.side=8"]
    paths = [f"paths.data={root.parent}", f"paths.runs={root.parent / 'runs'}", "tracker=none", "exec.threads=1"]
    return compose([*given, *paths, "seed=0", "optim.epochs=1", "optim.batch_size=4", "meta.batch_size=2", *more])


def prepared(root: Path, *more: str) -> RunData:
    return prepare(config(root, *more), torch.device("cpu"))


def test_verified_images_are_the_meta_set_and_others_in_it_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    marks = [f"{index}.png,{'ab'[index % 2]},{'true' if index in (1, 4, 6, 7) else ''}" for index in range(12)]
    root = listed(tmp_path / "mine", "\n".join(["file,label,verified", *marks]))
    run = prepared(root, "split=verified", "dataset.test_fraction=0.1")
    assert run.meta is not None
    assert set(run.meta.images[:, 0, 0, 0].tolist()) <= {10, 40, 60, 70}
    assert not {10, 40, 60, 70} & set(run.train.images[:, 0, 0, 0].tolist())
    assert not caplog.messages
    prepared(root, "split.meta_size=2")
    assert caplog.messages == ["the 2 images of the meta set are taken to be labelled rightly, which nobody has verified."]
    (root / "labels.csv").write_text("\n".join(["file,label", *(line.rsplit(",", 1)[0] for line in marks)]))
    with pytest.raises(UserError, match=r"split=verified: 0 of 11 training images are marked as verified"):
        prepared(root, "split=verified", "dataset.test_fraction=0.1")


def test_a_finished_run_is_not_taken_for_one_on_labels_that_were_changed_since(tmp_path: Path) -> None:
    root = listed(tmp_path / "mine", lines())
    settings = config(root, "split.meta_size=2")
    assert execute(settings) == execute(settings)
    (root / "labels.csv").write_text(lines().replace("sea lion", "Käfer", 1))
    with pytest.raises(UserError, match=r"was trained on other images, labels or splits than the dataset has now"):
        execute(settings)
