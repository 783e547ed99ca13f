"""``python -m ensemble_view`` is the command ``ensemble-view``."""

from __future__ import annotations

from ensemble_view.cli.application import main

if __name__ == "__main__":
    main()
