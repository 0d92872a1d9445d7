"""The computer that trainings and predictions run on: this one, or a host of the user's ssh configuration."""

from __future__ import annotations

from medssl.core.jobs import Job, PredictJob, TrainingJob
from medssl.core.project.elsewhere import elsewhere
from medssl.core.project.project import Project
from medssl.core.remote_hosts import ssh_hosts
from psygnal import Signal

from napari_medssl.model import preferences

KEY = "host"


class RunHost:
    """A choice that all steps share and that is kept for all projects."""

    changed = Signal()

    def __init__(self) -> None:
        self.hosts = ssh_hosts()
        """Hosts to choose from; empty where there are none, or no ssh."""
        kept = preferences.text(KEY)
        self.chosen = kept if kept in self.hosts else ""
        """The chosen host; empty for this computer."""

    def choose(self, host: str) -> None:
        """Choose a host; empty for this computer."""
        if host != self.chosen:
            self.chosen = host
            preferences.set_text(KEY, host)
            self.changed.emit()

    def host_of(self, job: Job, project: Project) -> str:
        """Where a job is to run; empty for this computer.

        A training that is on another computer already goes on there, whatever is chosen.

        Raises:
            UserError: "no-run", "unreadable".
        """
        if isinstance(job, TrainingJob) and job.resume:
            place = elsewhere(project.run(job.resume))
            if place is not None:
                return place.host
        return self.chosen if isinstance(job, TrainingJob | PredictJob) else ""
