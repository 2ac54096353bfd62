"""A whole study, or one stage of it, as the console command ``fedser`` runs them."""

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fedser.attacks.adversary.prepare import Learned, learn_run
from fedser.attacks.adversary.score_online import with_readers
from fedser.cli.earlier import earlier_overrides, must_be_given_again
from fedser.cli.sweep_jobs import PROBLEM_FILE, TRACEBACK_FILE, note_crash, note_failure, take_up
from fedser.client.corpora import overview as check
from fedser.client.corpora.build import build_corpus, named_corpus
from fedser.client.corpora.published import Published
from fedser.client.corpora.rotation import absent, check_turns
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.cache import cache_folder
from fedser.common.console import plain
from fedser.common.errors import (
    BAD_INPUT,
    SUSPENDED,
    Suspended,
    UserError,
    check_choice,
    os_problem,
)
from fedser.common.processes import end_with_parent
from fedser.common.quoting import override, pasted, visible
from fedser.common.run_folder import (
    alone,
    is_used,
    note_command,
    note_run,
    refuse_changes,
    refuse_used,
    remove_run,
)
from fedser.common.signals import Interrupted, spare_children
from fedser.conf.build import build_group
from fedser.conf.messages import explain
from fedser.conf.schema import StudyConfig
from fedser.loggers.base import Place, RunLog, flatten, logged
from fedser.reports.page import write_report
from fedser.reports.paper.tables import LAYOUTS, write_table
from fedser.reports.several_runs import statements
from fedser.reports.sweep.sweep import find_runs, globs, read_runs, runs_below, write_sweep
from fedser.reports.terminal import summary_table, sweep_table
from fedser.results.results import (
    Results,
    read_results,
    read_training,
    without_folders,
    write_results,
)
from fedser.server.federation.remote_clients import Roster
from fedser.server.study.federations import private_federations, remove_checkpoints, write_training
from fedser.server.study.run import (
    private_corpus,
    read_corpus,
    run_federations,
    run_over,
    study_config,
)
from fedser.stages.attack import assemble_results, attack_run, audit_run
from fedser.stages.check import check_adversary, check_audit, check_store

if TYPE_CHECKING:
    from fedser.server.network.superlink import Network

CRASHED = 1
AUDIT_VIOLATED = 3

console = Console(stderr=True)


class AuditViolation(Exception):
    """The audit proved that more is given away than the accountant says."""


def _one_line(line: str) -> str:
    line = visible(line)
    print(f"fedser: {line}", file=sys.stderr)
    return line


def run_composed(composed: DictConfig) -> None:
    """Run the study that Hydra composed, in the folder that it made; bad input ends the process."""
    if starter := parent_process():  # hydra/launcher=joblib runs jobs in workers of its own
        end_with_parent(starter.pid or 0)
    earlier = composed.run or composed.resume
    folder = Path(earlier or HydraConfig.get().runtime.output_dir).absolute()
    if composed.runs is not None:
        _report_runs(composed, folder)
        return
    try:
        with alone(folder):
            _run_alone(composed, folder)
    except Suspended as error:
        _one_line(str(error))
        sys.exit(SUSPENDED)
    except UserError as error:  # nothing was done in the folder, which is another's
        _one_line(str(error))
        sys.exit(BAD_INPUT)


def _run_alone(composed: DictConfig, folder: Path) -> None:
    """Run a study in a folder where no other process works."""
    earlier = composed.run or composed.resume
    before = set(folder.iterdir())
    try:
        spare_children()
        if earlier is not None:
            composed = _recompose(folder, composed.stage)
        elif _is_job() and not is_used(folder):  # at once: tables name a job that is refused, too
            note_command(folder, composed, HydraConfig.get().overrides.task)
            before = set(folder.iterdir())
        config, record = study_config(composed), OmegaConf.to_container(composed, resolve=True)
        if earlier is not None:
            _check_earlier(config, record, folder)
        elif _is_job() and config.stage in ("all", "train"):
            _run_job(config, record, folder)
            return
        elif config.stage != "check":
            refuse_used(folder)
            note_command(folder, composed, HydraConfig.get().overrides.task)
            note_run(folder, record)
        run_study(config, record, folder, _sweep_dir())
    except Interrupted as stop:  # of a sweep, too
        _one_line(f"interrupted: {_again(folder, earlier)}")
        sys.exit(stop.status)
    except AuditViolation as error:
        _end(_one_line(str(error)), AUDIT_VIOLATED, folder)
    except Suspended as error:  # what is there is what it goes on from
        _end(_one_line(f"{error}: {_again(folder, earlier)}"), SUSPENDED, folder)
    except UserError as error:
        _remove_all_but(folder, before)
        _end(_one_line(str(error)), BAD_INPUT, folder)
    except (HydraException, OmegaConfBaseException) as error:
        _remove_all_but(folder, before)
        _end(_one_line(explain(error)), BAD_INPUT, folder)
    except OSError as error:
        line = f"{os_problem(error)}: {_again(folder, earlier)}"
        _end(_one_line(line), SUSPENDED, folder)
    except Exception as error:  # such as a lack of memory; the other jobs of a sweep may do
        if not _is_job():
            raise
        print(f"fedser: {note_crash(folder, error)}", file=sys.stderr)
    finally:
        remove_run(folder, Path.cwd() / "outputs")


def _check_earlier(config: StudyConfig, record: Any, folder: Path) -> None:
    """Refuse what would mix two runs in the folder of an earlier one."""
    if config.run and config.resume:
        raise UserError("run goes without resume: set one of them")
    if config.run and config.stage in ("all", "train"):
        raise UserError(
            f"stage={config.stage} takes no run: set stage=attack or stage=report, or "
            "resume=FOLDER to go on with its training"
        )
    if config.stage != "report":
        refuse_changes(folder, record)


def _again(folder: Path, earlier: str | None) -> str:
    """Return the command that goes on with a run: this one where it works on an earlier run."""
    if earlier is not None or not is_used(folder):
        return pasted(["fedser", *sys.argv[1:]])
    config = HydraConfig.get()
    given = [s.path for s in config.runtime.config_sources if s.provider == "command-line"]
    searched = [o for o in config.overrides.hydra if o.startswith("hydra.searchpath=")]
    options = [part for path in given for part in ("--config-dir", path)]
    again = must_be_given_again(config.overrides.task)
    return pasted(["fedser", *options, *searched, override("resume", folder), *again])


def _is_job() -> bool:
    return HydraConfig.get().mode is RunMode.MULTIRUN


def _run_job(config: StudyConfig, record: Any, folder: Path) -> None:
    """Run a job of a sweep, or what an earlier command left to do of it."""
    found = take_up(config, record, folder)
    if isinstance(found, StudyConfig):
        run_study(found, record, folder, _sweep_dir())
        return
    console.print(plain(f"{folder}: finished before"), soft_wrap=True)
    if not (folder / "report.html").exists():
        write_report(folder)
    _end_study(config, found, folder)


def _sweep_dir() -> Path | None:
    """Return the folder of the multirun that this run is a part of."""
    return Path(HydraConfig.get().sweep.dir).absolute() if _is_job() else None


def _report_runs(composed: DictConfig, folder: Path) -> None:
    """Write the page over runs that others made, and may still be making."""
    try:
        if composed.stage != "report":
            raise UserError(f"stage={composed.stage} takes no runs; set stage=report")
        if composed.run or composed.resume:
            raise UserError("runs goes without run and resume: it names folders of its own")
        _show_sweep(folder, find_runs(globs(composed.runs), but=folder))
    except UserError as error:
        remove_run(folder, Path.cwd() / "outputs")
        _end(_one_line(str(error)), BAD_INPUT, folder)
    except OSError as error:
        _end(_one_line(os_problem(error)), SUSPENDED, folder)


def _show_sweep(folder: Path, runs: Sequence[Path]) -> None:
    written = write_sweep(folder, runs)
    read = [results for results in read_runs(runs)[1] if isinstance(results, dict)]
    console.print(sweep_table(written, statements(read)))
    console.print(plain(f"sweep: {written}"), soft_wrap=True)
    console.print(plain(f"report: {written.with_suffix('.html')}"), soft_wrap=True)


def _end(line: str, status: int, folder: Path) -> None:
    """End a run that failed; in a multirun leave the reason, and let the others run."""
    if _is_job():
        with suppress(OSError):  # the disk may be full, and the line is printed
            note_failure(folder, line)
        return
    sys.exit(status)  # raised further, Hydra would add a line of its own


def _recompose(folder: Path, stage: str) -> DictConfig:
    """Compose an earlier run's configuration anew, changed by this command's overrides."""
    given = list(HydraConfig.get().overrides.task)
    # A report shows what was found, whatever the run was made from.
    earlier = earlier_overrides(folder, given, whole=stage != "report")
    composed = hydra.compose("config", overrides=[*earlier, *given])
    for key in OmegaConf.missing_keys(composed) if stage == "report" else ():
        OmegaConf.update(composed, key, None)
    return composed


def _remove_all_but(folder: Path, before: set[Path]) -> None:
    """Leave nothing half-written."""
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_study(config: StudyConfig, record: Any, folder: Path, sweep: Path | None = None) -> None:
    """Run the stages that a study asks for.

    Parameters
    ----------
    record : dict
        The configuration as it was composed. ``results.json`` and loggers get it without folders.
    folder : Path
        Where everything is written.
    sweep : Path, optional
        Folder of the multirun that it is a part of.
    """
    record = without_folders(record)
    logger = build_group("logger", config.logger)
    with logged(RunLog(logger, Place(folder, sweep, flatten(record)))) as log:
        _run_stages(config, record, folder, log)


def _run_stages(config: StudyConfig, record: Any, folder: Path, log: RunLog) -> None:
    started = time.perf_counter()
    if config.stage == "report":
        _finish(folder, read_results(folder / "results.json"), log, measured=False)
        return
    check_audit(config)
    if config.stage == "check":
        _show_sources(config)
    trained = config.resume is not None and (folder / "training.json").exists()
    training_due = config.stage in ("all", "train") and not trained
    attacking = config.stage != "train" and bool(config.shadow and config.attack)
    if config.stage == "attack" and not attacking:
        raise UserError("stage=attack needs at least one corpus in shadow and one attack")
    check_store(config, attacking)
    learned = None
    with private_corpus(config, folder, training_due or config.stage == "check") as (data, nodes):
        shadows = load_shadows(config) if attacking else []
        classes = check_adversary(config, data, shadows) if attacking else []
        if config.stage in ("all", "check"):
            for corpus in (data, *shadows):
                _show(corpus)
        if config.stage == "check":
            return
        if trained:
            remove_checkpoints(folder)  # the run may have been killed before it did
        if training_due:
            if config.transcript.store == "features":
                learned = learn_run(config, data, shadows, classes)
            _train(config, data, folder, learned, nodes, log)
    training = read_training(folder)
    audit = audit_run(config, data, folder) if config.stage != "train" else None
    figures, timing = (
        attack_run(config, data, shadows, classes, folder, learned) if attacking else ([], {})
    )
    timing["total_seconds"] = time.perf_counter() - started
    results = assemble_results(record, config.seed, training, figures, audit, timing)
    _finish(folder, results, log, measured=True)
    _end_study(config, results, folder)


def _end_study(config: StudyConfig, results: Results, folder: Path) -> None:
    """Remove what is not to be kept of a finished run, and say if the audit failed."""
    if results["attacks"] and not config.keep_transcript:  # by now nobody needs it to go on
        shutil.rmtree(folder / "transcript", ignore_errors=True)
    if (audit := results["audit"]) and audit["violated"]:
        raise AuditViolation(
            "the audit measured more than the accountant allows: the mechanism is broken, see "
            f"audit in {folder / 'results.json'}"
        )


def load_shadows(config: StudyConfig) -> list[CorpusData]:
    """Read the shadow corpora: names in ``conf/corpus``, or mappings of keys to change.

    Raises
    ------
    UserError
        If an entry is malformed or two corpora have one name.
    """
    shadows = [read_corpus(settings, config) for settings in _shadow_settings(config)]
    names = [data.name for data in shadows]
    if len(set(names)) < len(names):
        raise UserError(f"shadow: {', '.join(names)} are not distinct; set another name: on one")
    return shadows


def _shadow_settings(config: StudyConfig) -> list[Any]:
    return [named_corpus("shadow", entry, config.data_root) for entry in config.shadow]


def _show_sources(config: StudyConfig) -> None:
    """Tell of published corpora what is there, before what is missing ends the run."""
    here = [] if config.runtime.name == "network" else [config.corpus]  # else the nodes have it
    for settings in (*here, *_shadow_settings(config)):
        for corpus in check.in_folders(build_corpus(settings, config.data_root)):
            if isinstance(corpus, Published):
                console.print(check.parts(corpus))
                console.print(plain(check.origin(corpus)), soft_wrap=True)
            found = corpus.listing(cache_folder(config.cache))
            if told := check.completeness(corpus, found):
                console.print(plain(f"corpus {corpus.name}\n{told}"), soft_wrap=True)


def _show(corpus: CorpusData | Roster) -> None:
    if isinstance(corpus, Roster):
        console.print(plain(f"{corpus.name}: {len(corpus.speakers)} speakers at the nodes"))
        return
    unreadable = {"unreadable": len(corpus.skipped)} if corpus.skipped else {}
    left_out = {**corpus.left_out, **unreadable}
    console.print(check.table(corpus.name, corpus.utterances, left_out))


def _train(
    config: StudyConfig,
    data: CorpusData | Roster,
    folder: Path,
    learned: Learned | None,
    nodes: "Network | None",
    log: RunLog,
) -> None:
    started = time.perf_counter()
    federations = private_federations(config, data, folder)
    if learned:
        federations = with_readers(config, learned, federations)
    log.begin(anew=config.resume is None)
    with log.following(federations):
        if nodes:
            outcomes = run_over(nodes, federations)
        else:
            outcomes = run_federations(federations, config.runtime)
    write_training(folder, data, outcomes, config.normalisation, time.perf_counter() - started)


def _finish(folder: Path, results: Results, log: RunLog, measured: bool) -> None:
    write_results(folder / "results.json", results)
    page = write_report(folder)
    log.results(results, measured)
    console.print(summary_table(results))
    console.print(plain(f"report: {page}"), soft_wrap=True)


class SweepTable(Callback):
    """Keeps others out of a multirun's folder, and leaves a table and a figure over its runs."""

    def __init__(self) -> None:
        self._alone = ExitStack()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Hand nothing on to jobs in processes of their own, which have locks of their own."""
        return type(self), ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse, before anything is trained, a table or corpora that there are none of."""
        try:
            if config.table is not None:
                check_choice("table", config.table, LAYOUTS)
            if "joblib" in OmegaConf.select(config, "hydra.launcher._target_", default=""):
                _check_runtime(config.runtime.name)
            if "corpora" in config and (
                config.corpora or OmegaConf.is_interpolation(config, "corpora")
            ):
                _check_corpora(config)
            self._alone.enter_context(alone(Path(config.hydra.sweep.dir).absolute()))
        except UserError as error:
            _one_line(str(error))
            sys.exit(BAD_INPUT)
        except OmegaConfBaseException as error:
            _one_line(explain(error))
            sys.exit(BAD_INPUT)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect the runs' results below the sweep folder."""
        try:
            with self._alone:
                self._show(config, Path(config.hydra.sweep.dir).absolute())
        except OSError as error:  # Hydra would print a warning alone
            _one_line(os_problem(error))
            sys.exit(SUSPENDED)

    def _show(self, config: DictConfig, folder: Path) -> None:
        if runs := runs_below(folder):
            _show_sweep(folder, runs)
            for run in runs:  # their pages tell of the sweep from now on
                with suppress(UserError):
                    write_report(run)
        if config.table and (shown := write_table(folder, config.table, console.width)):
            console.print(shown)
            console.print(plain(f"table: {folder / 'table.md'}"), soft_wrap=True)
            console.print(plain(f"page: {folder / 'table.html'}"), soft_wrap=True)
        if failed := sorted(path.parent.name for path in folder.glob(f"*/{PROBLEM_FILE}")):
            print(f"fedser: {len(failed)} run(s) failed: {', '.join(failed)}", file=sys.stderr)
            sys.exit(CRASHED if any(folder.glob(f"*/{TRACEBACK_FILE}")) else BAD_INPUT)


def _check_runtime(name: str) -> None:
    """Refuse runs side by side that would each take the whole machine."""
    if name != "local":
        raise UserError(
            f"hydra/launcher=joblib runs jobs side by side, and runtime={name} takes all cores for "
            "each: set runtime=local, or leave the launcher out"
        )


def _check_corpora(config: DictConfig) -> None:
    """Name corpora that are missing, and refuse those that cannot take turns."""
    corpora, data_root = list(config.corpora), config.data_root
    if OmegaConf.is_interpolation(config, "corpora"):
        for line in absent(data_root, corpora):
            console.print(plain(line), soft_wrap=True)
    attacked = config.stage == "all" and OmegaConf.is_interpolation(config, "shadow")
    check_turns(corpora, data_root, attacked)
