"""Find wrong labels, off-topic images and near-duplicates in a dataset, and write a review page.

    python -m trainers.audit --tfrecords out/

Open review.html in a browser, decide what to do with the images, and download decisions.csv. Then convert again with
the decisions:

    python -m tfrecord_tools.convert --src=images/ --out=out/ --update --decisions=decisions.csv
"""

from __future__ import annotations

import dataclasses
import html
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from tfrecord_tools.base import cache_options, callable_module, command, options, sizes, tabular, user_code, words
from tfrecord_tools.base.files import StrPath
from tfrecord_tools.base.options import Option
from tfrecord_tools.base.progress import Progress
from tfrecord_tools.base.sizes import Size
from tfrecord_tools.decoding.geometry import FITS
from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import dataset_files
from tfrecord_tools.records import Dataset, open_dataset
from trainers import backbones, recipes, run_directory
from trainers.auditing import audit_files, issues
from trainers.auditing.audit_files import AuditJson
from trainers.auditing.issues import KINDS, ListedIssue
from trainers.models import engines, model_file
from trainers.recipes import ModelConfig
from trainers.training_options import BACKBONE_KWARGS, CUSTOM_OBJECTS, FIT_HELP, SCALING

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Unpack

    from trainers.auditing.labels import Estimate
    from trainers.auditing.scoring import Audit
    from trainers.devices.device import Device
    from trainers.fitting.audited import Audited
    from trainers.fitting.extraction import Extraction

MOST_PICTURES = 1000  # Maximum number of pictures on the page. A review of more pictures would take hours.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Settings of an audit.

    Attributes:
        tfrecords: The dataset directory.
        cache_dir: As in `records.open_dataset`.
        cache_bytes: As in `records.open_dataset`.
        features_from: Network that computes the features: the name of a backbone as in `recipes.ModelConfig`, or the
            run directory or model file of a trainer.
        backbone_kwargs: Further arguments of the backbone's constructor.
        custom_objects: Modules and files that register the custom layers of a model file. They are imported.
        weights: As in `recipes.ModelConfig`. Only for a backbone.
        scaling: As in `recipes.ModelConfig`. Only for a backbone.
        image_size: As in `recipes.ModelConfig`. Only for a backbone.
        fit: As in `recipes.Recipe`. Only for a backbone.
        folds: Number of parts of the dataset. The records of each part are judged by a model that was fitted to the
            other parts.
        seed: Seed of the folds.
        out: Directory to write. If None, `audits/NAME-DIGEST`, with the name and the digest of the dataset.
        features: Directory for saved features.
        engine: One of `engines.ENGINES`, which computes the features.
        pictures: Largest number of images on the page.
    """

    tfrecords: str
    cache_dir: str | None = None
    cache_bytes: int | None = None
    features_from: str = ModelConfig.backbone
    backbone_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    custom_objects: Sequence[str] = ()
    weights: str = ModelConfig.weights
    scaling: str | None = None
    image_size: Size | None = None
    fit: str | None = None
    folds: int = 5
    seed: int = 0
    out: str | None = None
    features: str = recipes.TrainConfig.features
    engine: str = engines.AUTO
    pictures: int = MOST_PICTURES

    def __post_init__(self) -> None:
        if not self.tfrecords:
            raise UserError(
                "--tfrecords is missing. Pass the directory of the dataset, as written by python -m"
                " tfrecord_tools.convert."
            )
        recipes.check_seed("seed", self.seed)
        engines.check(self.engine)
        if self.folds < 2:
            raise UserError(f"--folds={self.folds}: must be at least 2. Five folds are usual.")
        if self.pictures < 0:
            raise UserError(f"--pictures={self.pictures}: must be 0 or more.")
        self._check_network()

    @property
    def is_backbone(self) -> bool:
        """Whether `features_from` is a network without a head. If False, it is a trained model."""
        if backbones.is_file(self.features_from) and Path(self.features_from).is_file():
            return not model_file.is_described(Path(self.features_from))
        return backbones.is_known(self.features_from) or backbones.is_own(self.features_from)

    def _check_network(self) -> None:
        if self.is_backbone:
            backbones.find(self.features_from, "features_from")
            if self.weights:
                backbones.check_weights(self.weights)
            return
        if not Path(self.features_from).exists():
            raise UserError(
                f"--features_from={self.features_from}: is not the name of a backbone, and is not an existing run"
                " directory or model file. The backbones are"
                f" {', '.join(name for name in backbones.BACKBONES if name != backbones.CNN)}. For another network,"
                f" pass {backbones.FORMS}."
            )
        if self.image_size or self.fit or self.backbone_kwargs or self.weights or self.scaling:
            raise UserError(
                f"--features_from={self.features_from}: a trained model has its own weights, scaling and image size."
                " Remove --weights, --scaling, --image_size, --fit and --backbone_kwargs, or pass the name of a"
                " backbone."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetAudit:
    """The result of an audit.

    Attributes:
        path: Directory with review.html, issues.csv, issues.parquet, near_duplicates.parquet and audit.json.
        issues: All issues, by kind and rank.
        probabilities: f32[n k], probability of each class for each record. They come from models that have not seen
            the record.
        estimate: The estimated number of wrong labels.
        summary: The lines about the issues, as the command prints them.
    """

    path: Path
    issues: Sequence[ListedIssue]
    probabilities: np.ndarray
    estimate: Estimate
    summary: Sequence[str]

    def __fspath__(self) -> str:
        """Return the directory. So functions that take a path also take this result."""
        return str(self.path)

    def __repr__(self) -> str:
        return "\n".join([f"DatasetAudit({str(self.path)!r})", *self.summary])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def audit_dataset(config: AuditConfig, log: Callable[[str], object] = print) -> DatasetAudit:
    """Audit a dataset, and write issues.parquet, issues.csv, audit.json and review.html.

    Args:
        config: The dataset and the network.
        log: Receives the lines for the user.

    Returns:
        The issues, and the estimate of the number of wrong labels.

    Raises:
        UserError: The dataset or the network does not exist, or there are too few records.
    """
    if config.out:  # Before a dataset in a bucket is fetched.
        run_directory.check_replaceable(Path(config.out), audit_files.ABOUT, "an audit")
    data = open_dataset(config.tfrecords, cache_dir=config.cache_dir, cache_bytes=config.cache_bytes)
    _check(data)
    out = Path(config.out) if config.out else audit_files.default(data)
    run_directory.check_replaceable(out, audit_files.ABOUT, "an audit")

    from trainers.devices import (
        device as devices,
    )  # Imported late, so that wrong flags are reported without waiting for TensorFlow.
    from trainers.fitting import audited

    device = devices.set_up(seed=config.seed, strategy="none")
    records = audited.gather(data, _extraction(config, data, device, log), config.features, log)
    return _write(config, data, records, out, log)


def _check(data: Dataset) -> None:
    if len(data.class_names) < 2:
        raise UserError(
            f"--tfrecords={data.location}: has only one class, {data.class_names[0]!r}. An audit compares the images"
            " of at least two classes. Convert images of other classes, too."
        )


def _extraction(config: AuditConfig, data: Dataset, device: Device, log: Callable[[str], object]) -> Extraction:
    from trainers.fitting import extraction
    from trainers.models import networks

    if not config.is_backbone:
        log(f"features: computed by the model {config.features_from}")
        return extraction.of_run(
            config.features_from, data, device, "features_from", config.custom_objects, config.engine
        )
    recipe = recipes.features(
        backbone=config.features_from,
        backbone_kwargs=config.backbone_kwargs,
        custom_objects=tuple(config.custom_objects) or None,
        weights=config.weights,
        scaling=config.scaling,
        image_size=config.image_size,
    )
    recipe = dataclasses.replace(recipe, fit=config.fit)
    size = sizes.text(recipe.model.size)
    log(f"features: computed by {networks.describe(recipe.model)}, {size} px, weights {recipe.model.weights}")
    model = networks.build(recipe.model, len(data.class_names), "features_from").model
    extractor = networks.split(model)[0]
    return extraction.of_recipe(extractor, data, recipe, config.seed, device, "features_from", engine=config.engine)


def _write(
    config: AuditConfig, data: Dataset, records: Audited, out: Path, log: Callable[[str], object]
) -> DatasetAudit:
    from trainers.auditing import scoring
    from trainers.results import review_items, review_page

    with Progress("audit", len(records.sha256)) as progress:
        result = scoring.audit(records.inputs, folds=config.folds, seed=config.seed, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    run_directory.write_json(out / audit_files.ABOUT, audit_files.UNFINISHED)
    listed = records.listed(result.issues)
    issues.write(out, listed)
    issues.write_pairs(out, *([records.sha256[row] for row in rows] for rows in result.pairs.T.tolist()))
    items = review_items.items(records, result.issues, config.pictures)
    estimate, command_line = result.estimate.sentence(data.class_names), _apply_command(data)
    review = review_page.Review(
        name=data.name,
        digest=data.digest,
        class_names=data.class_names,
        items=items,
        total=len(result.issues),
        apply_command=command_line,
        decided=records.decided,
        facts=[estimate],
    )
    page = out / review_page.PAGE
    review_page.write(page, review)
    about = _about(config, data, records, result)
    run_directory.write_json(out / audit_files.ABOUT, about)  # Written last, because it marks the audit as complete.
    hidden = len(result.issues) - len(items)
    summary = [estimate, *result.notes, *_lines(about, hidden, config.pictures)]
    for line in (*summary, *_next_steps(out, page, command_line)):
        log(line)
    return DatasetAudit(
        path=out,
        issues=listed,
        probabilities=result.probabilities,
        estimate=result.estimate,
        summary=summary,
    )


def _apply_command(data: Dataset) -> str:
    """Return the command that writes the dataset again with decisions. All records stay in their splits.

    A dataset in a bucket is never changed, so a new one is written.
    """
    if dataset_files.read(data.directory)["config"].get("adopted"):
        return "python -m tfrecord_tools.adopt YOUR_FLAGS --overwrite --decisions=decisions.csv"
    if data.bucket is None:
        return "python -m tfrecord_tools.convert YOUR_FLAGS --update --decisions=decisions.csv"
    return (
        f"python -m tfrecord_tools.convert YOUR_FLAGS --update_from={shlex.quote(data.location)} --out=NEW"
        " --decisions=decisions.csv"
    )


def _about(config: AuditConfig, data: Dataset, records: Audited, result: Audit) -> AuditJson:
    kinds = Counter(issue.kind for issue in result.issues)
    doubtful = Counter(issue.kind for issue in result.issues if issue.score >= audit_files.DOUBTFUL)
    return {
        "dataset": data.name,
        "digest": data.digest,
        "features_from": config.features_from,
        "folds": config.folds,
        "seed": config.seed,
        "records": len(records.sha256),
        "decided": int(records.inputs.decided.sum()),
        "issues": {kind: kinds[kind] for kind in KINDS},
        "doubtful": {kind: doubtful[kind] for kind in KINDS},
        "estimate": dataclasses.asdict(result.estimate),
    }


def _lines(about: AuditJson, hidden: int, pictures: int) -> Iterator[str]:
    """Yield a table of the issues, and notes about decided images and issues that the page does not show."""
    rows = [["issues", "score 0.5 or more", "listed"]]
    rows += [[kind, f"{about['doubtful'][kind]:,}", f"{about['issues'][kind]:,}"] for kind in KINDS]
    yield from (f"  {line}" for line in tabular.aligned(rows, left=(0,)))
    if about["decided"]:
        yield (
            f"  {words.number(about['decided'], 'image is', 'images are')} not listed again, because you decided on"
            " them in earlier reviews"
        )
    if hidden:
        yield (
            f"  {words.number(hidden, 'issue with a low rank is', 'issues with low ranks are')} in {issues.CSV}, but"
            f" not on the page. To see more issues on the page, pass --pictures=N with N above {pictures}"
        )


def _next_steps(out: Path, page: Path, command_line: str) -> Iterator[str]:
    yield f"results: {out}/ with {', '.join(sorted(path.name for path in out.iterdir()))}"
    yield (
        f"next: open {page} in a browser, decide what to do with the images, and download decisions.csv. Then repeat"
        f" the command that wrote the dataset, with more flags: {command_line}"
    )


OPTIONS = (
    Option(
        "tfrecords",
        "path",
        "Directory of the dataset, as written by tfrecord_tools.convert, or its URL in a bucket.",
        default="",
    ),
    *cache_options.OPTIONS,
    Option(
        "features_from",
        "path",
        "Network that computes the features: the name of a backbone, the run directory or model file of a trainer, or a"
        f" network of your own ({backbones.FORMS}).",
        default=AuditConfig.features_from,
    ),
    BACKBONE_KWARGS,
    CUSTOM_OBJECTS,
    Option(
        "weights",
        "path",
        "Weights of the network. imagenet: weights that Keras downloads; none: random weights, with which the audit"
        " finds few issues; own: the weights that your own network already has; FILE: the path of a .h5 or .weights.h5"
        " file for the network without its classification layers. For a network of your own, the default is own.",
        default=backbones.IMAGENET,
    ),
    SCALING,
    Option(
        "image_size",
        "size",
        "Height and width of the network's input in pixels: one number for a square, or HEIGHTxWIDTH as in 96x256."
        " Default: the size for which the network was trained.",
    ),
    Option("fit", "text", f"{FIT_HELP} Default: crop.", choices=FITS),
    Option(
        "folds",
        "integer",
        "Number of parts (folds) of the dataset. The images of each part are checked by a model that was trained on"
        " the other parts only.",
        default=AuditConfig.folds,
    ),
    Option(
        "seed", "integer", "Seed of the random numbers that divide the dataset into parts.", default=AuditConfig.seed
    ),
    Option(
        "out",
        "path",
        "Directory to write. Default: audits/NAME-DIGEST. NAME is the name of the dataset, and DIGEST is a"
        " checksum of the dataset.",
        written=True,
    ),
    Option(
        "features",
        "path",
        "Directory for saved features. With the same directory, trainers.features reads the saved features.",
        default=AuditConfig.features,
        written=True,
    ),
    engines.OPTION,
    Option(
        "pictures",
        "integer",
        "Largest number of pictures in review.html. 0: review.html has no pictures.",
        default=AuditConfig.pictures,
    ),
)


class AuditOptions(TypedDict, total=False):
    """Options of `audit`, for editors and type checkers."""

    tfrecords: StrPath
    cache_dir: StrPath
    cache_bytes: int
    features_from: StrPath | Callable[..., Any]
    backbone_kwargs: Mapping[str, Any]
    custom_objects: Sequence[str]
    weights: StrPath
    scaling: str
    image_size: int | str | tuple[int, int]
    fit: str
    folds: int
    seed: int
    out: StrPath
    features: StrPath
    engine: str
    pictures: int


@options.document(OPTIONS)
def audit(*, log: Callable[[str], object] = command.say, **given: Unpack[AuditOptions]) -> DatasetAudit:
    """Audit a dataset, and write issues.parquet, issues.csv, audit.json and review.html.

    It does the same as `python -m trainers.audit`.

    Args:
        log: Receives the lines for the user.
        {options}

    Returns:
        The issues, and the estimate of the number of wrong labels.

    Raises:
        UserError: The dataset or the network does not exist, or there are too few records.

    Example:
        found = trainers.audit(tfrecords="out")
        [issue.path for issue in found.issues if issue.kind == "label"]
    """
    values: dict[str, Any] = dict(given)
    if callable(values.get("features_from")):
        values["features_from"] = user_code.name_of(values["features_from"], "features_from=")
    return audit_dataset(AuditConfig(**{"tfrecords": ""} | options.checked(OPTIONS, values)), log)


def define_flags() -> None:
    options.define(OPTIONS)


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    audit(**options.from_flags(OPTIONS))


callable_module.make(__name__, audit)

if __name__ == "__main__":
    define_flags()
    command.run(main, "interrupted: run the same command again to continue")
