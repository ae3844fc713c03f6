"""What Dagster has on record of runs."""

from __future__ import annotations

import dagster as dg

_KINDS = (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE)


def reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed: what the step that failed last says, else what Dagster says of the run."""
    for kind in _KINDS:
        records = instance.get_records_for_run(
            run_id, of_type=kind, limit=1, ascending=False
        ).records
        event = records[0].event_log_entry.dagster_event if records else None
        if event is None:
            continue
        if kind is dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error is not None:
                return (data.error.cause or data.error).message.strip()
        if event.message:
            return event.message
    return "Dagster's log of it says why"
