"""What holds for all tests: how random ones are drawn."""

import os

from hypothesis import HealthCheck, settings

# Time is not what these tests are about, and a busy machine is no failure. What CI finds must be found again by whoever
# looks into it, so there the draws are always the same; elsewhere each run explores further.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("explore"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "explore")
