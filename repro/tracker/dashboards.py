"""The dashboards as code: one saved view of a W&B project, in five sections.

Built with ``wandb-workspaces``, the only public way to write a saved view; it comes with ``pip install 'soft-labels-repro[dashboards]'``.
"""

from __future__ import annotations

import importlib
from typing import Any

from repro.errors import UserError
from repro.tracker.contents import summary_name
from repro.tracker.server import Server, described

#: What distinguishes runs, from coarse to fine: the runs table is grouped by these.
GROUPED_BY = ("dataset.name", "method.name", "noise.name", "noise.rate", "split.fold", "seed")

#: The result that the runs are ordered by, the highest first.
_BEST = summary_name("test/accuracy", "best_val")

#: Columns of the runs table beside the name of the run.
_COLUMNS = (_BEST, "final_test_accuracy", "final_noise_label_error", "best_val_epoch")


def _panels() -> dict[str, list[Any]]:
    """Return the panels by the name of their section."""
    # It declares what it exports only at run time.
    wr: Any = importlib.import_module("wandb_workspaces.reports.v2")
    method = wr.Config("method.name")

    def final(metric: str) -> Any:
        return wr.SummaryMetric(summary_name(metric, "last"))

    def band(title: str, *metrics: str) -> Any:
        mean = {"groupby": method, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "aggregate": True}
        return wr.LinePlot(title=f"{title}: mean ± SD by method", x="epoch", y=list(metrics), **mean)

    def lines(title: str, *metrics: str) -> Any:
        return wr.LinePlot(title=title, x="epoch", y=list(metrics))

    def classes(title: str, series: str) -> Any:
        return wr.LinePlot(title=f"{title}, class by class (one run)", x="epoch", metric_regex=rf"^{series}/\d{{3}}$", max_runs_to_show=1)

    columns = [wr.Config("noise.rate"), wr.Config("optim.learning_rate"), final("noise/correction_rate"), final("test/accuracy")]
    return {
        "Headline": [
            band("Test accuracy", "test/accuracy"),
            band("Validation accuracy", "val/accuracy"),
            band("Test loss", "test/loss"),
            band("Training loss", "train/loss"),
            wr.BarPlot(title="Test accuracy at the best validation epoch", metrics=[wr.SummaryMetric(_BEST)], groupby=method),
            wr.ParallelCoordinatesPlot(
                title="Settings and results", columns=[wr.ParallelCoordinatesPlotColumn(metric=column) for column in columns]
            ),
        ],
        "Label trajectories": [
            lines("Mass on the annotated class: 10%, 50%, 90%", *(f"label/target_probability_q{percent}" for percent in (10, 50, 90))),
            band("Mass on the annotated class", "label/target_probability"),
            lines("Entropy: 10%, 50%, 90%", *(f"label/entropy_q{percent}" for percent in (10, 50, 90))),
            band("Entropy, correctly and wrongly labelled", "label/entropy_clean", "label/entropy_noisy"),
            classes("Mass on the annotated class", "class_target_probability"),
            wr.MediaBrowser(title="Heat map: class by epoch", media_keys=["label/heatmap"], num_columns=3),
        ],
        "Meta accuracy by class": [
            classes("Accuracy on the meta set", "class_meta_accuracy"),
            band("Accuracy on the meta set", "meta/accuracy"),
            wr.ScatterPlot(
                title="Learned mass and meta accuracy, run by run", x=final("label/target_probability"), y=final("meta/accuracy")
            ),
        ],
        "Noise correction": [
            band("Wrong labels corrected", "noise/correction_rate"),
            band("Right labels damaged", "noise/damage_rate"),
            band("Label error", "noise/label_error"),
            band("True class among the five most probable, wrongly labelled images", "noise/top5_accuracy_noisy"),
        ],
        "Run health": [
            lines("Seconds an epoch", "time/epoch_s"),
            lines("Learning rate", "optim/learning_rate"),
            lines("Attempts", "job/attempt"),
            lines("Failed calls of W&B", "job/mirror_failures"),
        ],
    }


def save(server: Server, url: str | None = None) -> str:
    """Save the workspace as a new view of the project, or over the one at ``url``, and return its address.

    Raises:
        UserError: the package is missing, there is no such view, or the server refuses.
    """
    try:
        from wandb_workspaces import expr
        from wandb_workspaces import workspaces as ws
    except ImportError as error:
        raise UserError(
            f"dashboards need the package wandb-workspaces, which is not installed ({error}). "
            "Install it with: pip install 'soft-labels-repro[dashboards]'"
        ) from error
    try:
        # Written into the view that is there, its identity stays, and with it everybody's bookmarks.
        new = ws.Workspace(entity=server.entity, project=server.project, sections=[], auto_generate_panels=False)
        view: Any = new if url is None else ws.Workspace.from_url(url)
        view.name = "Soft labels"
        view.sections = [ws.Section(name=name, panels=panels, is_open=True) for name, panels in _panels().items()]
        # 50 runs a panel: more lines than anybody tells apart.
        view.settings = ws.WorkspaceSettings(x_axis="epoch", group_by_prefix="first", max_runs=50, ignore_outliers=False)
        view.runset_settings = ws.RunsetSettings(
            groupby=[expr.Config(name) for name in GROUPED_BY],
            order=[expr.Ordering(expr.Summary(_BEST), ascending=False)],
            pinned_columns=[f"summary:{name}" for name in _COLUMNS],
        )
        view.save()
    except Exception as error:  # the client passes on whatever its service and its HTTP library raise
        raise UserError(f"the workspace is not saved: {described(error)}.") from error
    return str(view.url)
