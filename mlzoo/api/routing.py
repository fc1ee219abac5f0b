"""What an answer says of the route that its request took."""

from __future__ import annotations

import attrs

from mlzoo.api.fields import about


@attrs.frozen(kw_only=True)
class Rerouted:
    """A model of the route that was to answer and could not."""

    model: str
    provider: str
    reason: str = attrs.field(metadata=about("The type of its error, or what that says more closely."))
    message: str
