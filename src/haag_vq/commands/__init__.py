"""The commands of `haag-vq`, one module each; `haag_vq.cli` lists them.

Such a module has `NAME`, `HELP` (one line), `add_arguments(parser)` and `run(args)`, which returns
what happened twice: as facts for ``--json`` and as the rows of a table. One whose outcome is also
its exit code has `exit_code(facts)`.
"""
