"""HTTP is for who asks a provider: nothing else imports it."""

import subprocess
import sys


def test_nothing_of_http_is_imported_before_a_provider_works():
    program = (
        "import sys, mlzoo.app, mlzoo.wiring, mlzoo.actors.calls, mlzoo.actors.observation, mlzoo.providers.opening;"
        "print([name for name in sys.modules if name.partition('.')[0] in {'httpx2', 'httpcore2', 'tenacity', 'h11'}])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout == "[]\n"
