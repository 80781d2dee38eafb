"""What schemathesis cannot know of this API."""

import re

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import JsonSchemaError


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Says which failures are none."""
    # Lists that are asked for some `fields` only leave out others: no description in OpenAPI can say that a parameter does so.
    if isinstance(failure, JsonSchemaError) and "fields" in (case.query or {}):
        return "is a required property" not in failure.validation_message
    if isinstance(failure, AcceptedNegativeData):
        # No body is an empty object: `curl -X POST …/start` needs none.
        return "Missing request body" not in failure.message and not allowed(case)
    return True


def allowed(case):
    """Whether all that is wrong with a request is a parameter that this test has narrowed, with a value that the host's own description allows."""
    data = case.meta.phase.data
    names = {data.parameter} if data.parameter else {mutation.parameter for mutation in data.mutations}
    wrong = {location.name for location, component in case.meta.components.items() if component.mode.is_negative}
    if not names or not wrong <= {"PATH", "QUERY"}:
        return False
    values = (case.path_parameters or {}) | (case.query or {})
    described = {parameter["name"]: parameter.get("x-described") for parameter in case.operation.definition.raw.get("parameters", [])}
    return all(fits(values.get(name), described.get(name)) for name in names)


def fits(value, schema):
    """Whether a value is, as it is written into an address, a text that a schema allows. Only what is narrowed has one."""
    if schema is None or value is None or isinstance(value, (list, dict)):
        return False
    return re.search(schema.get("pattern", ""), str(value)) is not None
