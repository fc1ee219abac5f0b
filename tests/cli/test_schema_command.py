"""``mlzoo schema``."""

import argparse
import json

from mlzoo.api.openrpc import document
from mlzoo.cli import schema
from mlzoo.views import event_types


def test_the_command_prints_the_document_with_the_events_of_the_log(capsys):
    parser = argparse.ArgumentParser()
    schema.add_parser(parser.add_subparsers())
    assert schema.run(parser.parse_args(["schema"])) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == document(events=event_types())
    assert {"Submit", "RequestAccepted"} <= set(json.loads(printed)["x-events"])
