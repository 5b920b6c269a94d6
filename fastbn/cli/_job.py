"""A job of `fastbn train`: its data and settings, which are stored in its checkpoint."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from typing import TYPE_CHECKING, Any

import fastbn
from fastbn.cli import _presets as presets
from fastbn.cli._columns import check_columns, is_csv, sample_notes
from fastbn.cli._output import complain
from fastbn.errors import ModelFileError

if TYPE_CHECKING:
    from fastbn.datasets import Dataset
    from fastbn.fit.history import History
    from fastbn.model import BatchNormMLP
    from fastbn.options import ShowProgress


@dataclasses.dataclass(frozen=True)
class TrainJob:
    """The data and the settings of a training."""

    data: str
    target: str | None
    test_size: float
    settings: dict[str, Any]
    validation: bool
    checkpoint_every: int | None

    @classmethod
    def read(cls, path: pathlib.Path) -> TrainJob:
        """Read the job of a checkpoint. `fit` checks its own settings later."""
        from fastbn.files.model_file import open_model
        from fastbn.model.config import ModelConfig
        from fastbn.model.state import Header

        with open_model(path) as file:
            header = Header.of(file)
        inputs, *_, outputs = header.config.layer_sizes
        try:
            job = cls(**header.metadata["job"])
            if not isinstance(job.data, str):
                raise TypeError(f"data: expected a string, got {job.data!r}")
            settings = _part(job.settings, presets.DEFAULT)
            sizes = (inputs, *settings["hidden"], outputs)
            config = ModelConfig(layer_sizes=sizes, **_part(settings, presets.MODEL))
            if config != header.config:
                raise ValueError("the model does not have these settings")
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"{path}: expected a checkpoint of 'fastbn train', got another ({error!r:.200})"
            ) from error
        return job

    def train(
        self, checkpoint: pathlib.Path | None, resume: bool, bar: ShowProgress
    ) -> tuple[Dataset, BatchNormMLP, History]:
        """Load the data and train."""
        from fastbn import datasets
        from fastbn.model import BatchNormMLP
        from fastbn.model.checkpoint import OtherDataError

        settings = self.settings
        dataset = datasets.load(self.data, target=self.target, test_size=self.test_size)
        if is_csv(self.data) and dataset.feature_names is None and bar is not False:
            for note in sample_notes(self.data):
                complain(note)
        if not resume:
            check_columns(self.data, dataset, self.target)
        sizes = (dataset.X_train.shape[1], *settings["hidden"], len(dataset.class_names))
        model = BatchNormMLP(sizes, **_part(settings, presets.MODEL))
        notes: dict[str, Any] = {
            "class_names": list(dataset.class_names),
            "data": dataset.name,
            "fastbn_version": fastbn.__version__,
            "split": {"target": self.target, "test_size": self.test_size},
        }
        if dataset.feature_names is not None:
            notes["feature_names"] = list(dataset.feature_names)
            notes["target_name"] = dataset.target_name
            model.metadata = notes
            model.save(io.BytesIO())  # refuse names that cannot be saved before the training
        model.metadata = {**notes, "job": json.loads(json.dumps(dataclasses.asdict(self)))}
        try:
            history = model.fit(
                dataset.X_train,
                dataset.y_train,
                batch_size=presets.batch_size(settings, len(dataset.y_train)),
                validation_data=(dataset.X_test, dataset.y_test) if self.validation else None,
                progress=bar,
                checkpoint=checkpoint,
                checkpoint_every=self.checkpoint_every,
                resume=resume,
                **_part(settings, presets.FIT),
            )
        except OtherDataError:
            raise ValueError(
                f"{self.data}: expected the data that the checkpoint {checkpoint} was written "
                "for, got other data, or rows or columns in another order"
            ) from None
        model.metadata = notes
        return dataset, model, history


def _part(settings: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in names}
