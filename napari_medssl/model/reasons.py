"""Why an action is not possible now, as sentences that disabled controls show; empty where it is possible."""

from __future__ import annotations

from napari_medssl.model.session import Session

NO_SCAN = "No scan is open yet; open one in step 1."


def no_change(session: Session) -> str:
    """Why the annotation of a scan cannot be changed: another window writes, or no scan is open."""
    return session.read_only or no_scan(session)


def no_job(session: Session) -> str:
    """Why no job can be started on the open scan."""
    return job_blocked(session) or no_scan(session)


def job_blocked(session: Session) -> str:
    """Why no job can be started on any scan: one is running, or another window writes."""
    job = session.job
    return f"{job.title} is running; stop it, or wait until it ends." if job.running else session.read_only


def no_scan(session: Session) -> str:
    """Why nothing can be done with the scan on the screen: there is none."""
    return NO_SCAN if session.scan is None else ""
