"""The batch systems, one module each, with a `SYSTEM`: every module here is a name that `featurize.cluster` may have.

What all of them need stands a folder above: `jobs.BatchSystem`, what a module has to offer; `script` and `commands`.
"""
