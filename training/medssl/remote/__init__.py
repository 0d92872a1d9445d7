"""Jobs on another computer by ssh: `relay` here, `agent` there. Neither loads torch."""
