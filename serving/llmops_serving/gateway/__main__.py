"""`python -m llmops_serving.gateway`."""

from __future__ import annotations

import sys

from llmops_serving.gateway.main import main

sys.exit(main())
