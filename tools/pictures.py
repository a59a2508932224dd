"""Make the pictures of README and docs from drawn images: `make pictures`.

    python -m tools.pictures DIRECTORY [--weights=FILE] [--write] [--chromium=PROGRAM]

DIRECTORY is the directory of tools.tutorial. The tutorial's commands run first, because the pictures show what they
wrote. A headless Chromium takes the pictures of pages (Debian: apt-get install chromium). Nothing else here needs it.
"""

from __future__ import annotations

import argparse
import html
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from tools import tutorial

PICTURES = tutorial.REPOSITORY / "docs/pictures"
MOST_BYTES = 600_000  # All pictures together.
RUNS = ("csv", "images", "augmented", "features", "frozen", "finetune")
SHOWN = ("tfrecord_tools.convert", "trainers.finetune", "trainers.predict")  # In the picture of a terminal.
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #1e2430; }}
.window {{ color: #dfe6ee; font: 13px/1.45 "DejaVu Sans Mono", monospace; }}
.bar {{ height: 28px; border-bottom: 1px solid #343d4d; padding: 0 12px; }}
.bar {{ display: flex; gap: 7px; align-items: center; }}
.bar i {{ width: 11px; height: 11px; border-radius: 6px; background: #57627a; }}
pre {{ margin: 0; padding: 14px 18px; font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; }}
b {{ color: #7fd1c1; font-weight: 600; }}
</style><div class="window"><div class="bar"><i></i><i></i><i></i></div><pre>{lines}</pre></div>
"""


def photograph(chromium: str, page: Path, picture: Path, width: int, height: int) -> None:
    """Write a PNG of a page's top `height` pixels at a window of `width` pixels."""
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=3000",
    ]
    command += [f"--window-size={width},{height}", f"--screenshot={picture}", page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True)


def terminal_page(outputs: dict[str, str]) -> str:
    """Return a page that looks like a terminal, with the commands `SHOWN` and their quoted lines."""
    lines = []
    for command, output in outputs.items():
        module = command.partition(" ")[0]
        if module in SHOWN:
            lines.append(f"<b>$ python -m {html.escape(command)}</b>")
            lines += [html.escape(tutorial.quotable(module, output)), ""]
    return TERMINAL.format(lines="\n".join(lines).rstrip().replace("\n\n\n", "\n\n"))


def save_small(source: Path, name: str, width: int, colors: int = 128) -> None:
    """Write a picture of the docs: at most `width` pixels wide, with a palette, the margin below cut off."""
    with Image.open(source) as image:
        picture = without_margin(image.convert("RGB"))
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    dither = Image.Dither.FLOYDSTEINBERG if colors == 256 else Image.Dither.NONE  # Only drawings have smooth colors.
    picture = picture.quantize(colors, dither=dither)
    picture.save(PICTURES / f"{name}.png", optimize=True)


def without_margin(image: Image.Image) -> Image.Image:
    """Return an image without its bottom margin, except 16 rows."""
    corner = image.getpixel((image.width - 1, image.height - 1))
    background = Image.new("RGB", image.size, corner)
    box = ImageChops.difference(image, background).getbbox()
    return image if box is None else image.crop((0, 0, image.width, min(image.height, box[3] + 16)))


def make(directory: Path, chromium: str, outputs: dict[str, str]) -> int:
    """Write all pictures, and return their bytes."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        shot, page = Path(temporary, "shot.png"), Path(temporary, "terminal.html")
        page.write_text(terminal_page(outputs), "utf-8")
        photograph(chromium, page, shot, 1100, 900)
        save_small(shot, "terminal", 1100, colors=32)
        for name, path in (("card", "out/card.html"), ("report", "runs/finetune/report.html")):
            photograph(chromium, directory / path, shot, 1100, 940)
            save_small(shot, name, 800)
    save_small(directory / "preview.png", "augmentation", 600, colors=256)
    save_small(directory / "grid.png", "records", 600, colors=256)
    for run in RUNS:
        save_small(directory / f"runs/{run}/plots/accuracy.png", f"accuracy_{run}", 560, colors=32)
    return sum(path.stat().st_size for path in PICTURES.glob("*.png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--weights", default="")
    parser.add_argument("--write", action="store_true", help="Also write the outputs into the tutorial's page.")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser") or "")
    options = parser.parse_args()
    if not options.chromium:
        parser.error("Chromium is not installed. On Debian and Ubuntu: apt-get install chromium")
    outputs = tutorial.run_all(options.directory, options.weights)
    if options.write:
        tutorial.write(outputs, options.directory)
    total = make(options.directory, options.chromium, outputs)
    print(f"{PICTURES}: {total:,} bytes")
    if total > MOST_BYTES:
        parser.error(f"The pictures have {total:,} bytes together; at most {MOST_BYTES:,} are wanted.")
