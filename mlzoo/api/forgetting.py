"""Params and results of forget: having what was said really gone."""

from __future__ import annotations

import attrs

from mlzoo.api.fields import about, checked, naming


@attrs.frozen(kw_only=True)
class ForgetParams:
    """What is to be forgotten: a conversation, or a request, by the name that the log has of it or by its key."""

    request: str | None = attrs.field(
        default=None, validator=checked, metadata=naming("The request's name in the log, the id of its result.")
    )
    key: str | None = attrs.field(
        default=None, validator=checked, metadata=naming("Key of the request; one of the two, and not both, is given.")
    )
    conversation: str | None = attrs.field(
        default=None, validator=checked, metadata=naming("A conversation, with all of its requests.")
    )


@attrs.frozen(kw_only=True)
class ForgetResult:
    """It is gone, durably: no byte of its text is in the log."""

    groups: int = attrs.field(metadata=about("How many commands of the log were about it; they are tombstones now."))
    request: str | None = attrs.field(default=None, metadata=about("The request's name in the log."))
    conversation: str | None = None
