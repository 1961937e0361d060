"""Hard negatives in the generator's own likelihood: how much likelier a report is with its image than with another one."""
