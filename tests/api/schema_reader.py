"""The part of JSON Schema draft 7 that the document uses: what a schema has against a value, what values it allows."""

from hypothesis import strategies as st

KEYWORDS = {
    "type", "enum", "const", "anyOf", "allOf", "oneOf", "items", "properties", "required", "additionalProperties",
    "dependencies", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength", "minItems", "maxItems",
    "title", "description", "default", "x-secret", "x-unserved", "$ref",
}  # fmt: skip
KINDS = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}


def resolve(schema, components):
    assert set(schema) <= KEYWORDS, set(schema) - KEYWORDS
    if "$ref" in schema:
        assert set(schema) == {"$ref"}, "in draft 7 nothing beside a reference counts"
        return resolve(components[schema["$ref"].removeprefix("#/components/schemas/")], components)
    return schema


def is_of_kind(value, kind):
    if kind in {"integer", "number"}:
        return type(value) is int or (kind == "number" and type(value) is float)
    return type(value) is KINDS[kind]


def faults(value, schema, components, path="$"):
    """Yield what a schema has against a value."""
    schema = resolve(schema, components)
    if "type" in schema and not is_of_kind(value, schema["type"]):
        yield f"{path}: not {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: not in {schema['enum']}"
    if "anyOf" in schema and all([*faults(value, member, components)] for member in schema["anyOf"]):
        yield f"{path}: none of the alternatives"
    for member in schema.get("allOf", ()):
        yield from faults(value, member, components, path)
    if type(value) in {int, float}:
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{path}: out of range"
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            yield f"{path}: too small"
    elif type(value) is str:
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{path}: length"
    elif type(value) is list:
        yield from _list_faults(value, schema, components, path)
    elif type(value) is dict:
        yield from _object_faults(value, schema, components, path)


def _list_faults(value, schema, components, path):
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{path}: length"
    for index, item in enumerate(value):
        yield from faults(item, schema.get("items", {}), components, f"{path}[{index}]")


def _object_faults(value, schema, components, path):
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: missing"
    for name, item in value.items():
        inner = properties.get(name, schema.get("additionalProperties", {}))
        if inner is False:
            yield f"{path}.{name}: unknown"
        else:
            yield from faults(item, inner, components, f"{path}.{name}")
    if "oneOf" in schema and sum(all(n in value for n in one["required"]) for one in schema["oneOf"]) != 1:
        yield f"{path}: not exactly one of {schema['oneOf']}"


def unserved(value, schema, components, path="$"):
    """Yield the places of what the schema says that this version does not serve, in a value that it allows."""
    schema = resolve(schema, components)
    if "x-unserved" in schema and is_among(value, schema["x-unserved"]):
        yield path
    for member in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        if not list(faults(value, member, components)):
            yield from unserved(value, member, components, path)
    if type(value) is list:
        for index, item in enumerate(value):
            yield from unserved(item, schema.get("items", {}), components, f"{path}[{index}]")
    elif type(value) is dict:
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from unserved(value[name], inner, components, f"{path}.{name}")


def is_among(value, schema):
    """Say whether a value is one of those that a schema beside the type allows; True allows all."""
    match schema:
        case True:
            return True
        case {"not": inner}:
            return not is_among(value, inner)
        case {"const": one}:
            return value == one
        case {"enum": some}:
            return value in some
        case {"minItems": least}:
            return len(value) >= least
    raise AssertionError(schema)


def values(schema, components):
    """Return a strategy for the values that a schema allows."""
    schema = resolve(schema, components)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        beside = {key: bound for key, bound in schema.items() if key != "anyOf"}
        return st.one_of(
            [values({**member, **beside}, components) for member in map(_deref(components), schema["anyOf"])]
        )
    if "allOf" in schema:
        (member,) = schema["allOf"]
        return values(member, components)
    match schema.get("type"):
        case "string":
            return st.text(min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 8), 8))
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            low = schema.get("exclusiveMinimum", schema.get("minimum"))
            floats = st.floats(low, schema.get("maximum"), allow_nan=False, allow_infinity=False)
            return floats.filter(lambda value: value != schema.get("exclusiveMinimum"))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            size = schema.get("minItems", 0)
            return st.lists(values(schema.get("items", {}), components), min_size=size, max_size=size + 2)
        case "object" if "properties" in schema:
            return _objects(schema, components)
        case "object":
            return st.dictionaries(st.text(max_size=5), values(schema["additionalProperties"], components), max_size=2)
        case None:
            return any_json
        case kind:
            raise AssertionError(kind)


def _deref(components):
    return lambda schema: resolve(schema, components)


@st.composite
def _objects(draw, schema, components):
    required = set(schema["required"])
    optional = set(schema["properties"]) - required
    if "oneOf" in schema:
        alternatives = [set(one["required"]) for one in schema["oneOf"]]
        chosen = draw(st.sampled_from(alternatives))
        required |= chosen
        optional -= set().union(*alternatives)
    optional = {name for name in sorted(optional) if draw(st.booleans())}
    made = {name: draw(values(schema["properties"][name], components)) for name in sorted(required | optional)}
    for name, needed in schema.get("dependencies", {}).items():
        if name in made:
            made |= {other: inner["const"] for other, inner in needed["properties"].items()}
    return made


any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
