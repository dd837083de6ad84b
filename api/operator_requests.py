"""What comes in from operators. The fields and bounds are those of `spec/api/openapi.yaml`."""

from typing import Any

from marshmallow import ValidationError, fields, validate

from api.requests import (
    INVISIBLE,
    PageQuerySchema,
    RequestSchema,
    Rfc3339,
    WholeNumber,
    is_cursor,
    is_project_id,
)
from services.operations import SETTLEMENTS
from store.views import View

_LONGEST_AGE = 10 * 365 * 86_400


# It is shown on terminals too, so it has no control characters.
_NO_CONTROL = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*"
_IS_REASON = [
    validate.Length(1, 500),
    validate.Regexp(
        rf"{_NO_CONTROL}[^{INVISIBLE}]{_NO_CONTROL}\Z",
        error="A line of text that is not blank.",
    ),
]


def _is_true_or_false(value: Any) -> None:
    # JSON's own: marshmallow's Boolean takes `1`, `"yes"` and `"off"` too.
    if not isinstance(value, bool):
        raise ValidationError("Must be true or false.")


class ActSchema(RequestSchema):
    reason = fields.String(required=True, validate=_IS_REASON)


class OptionalReasonSchema(RequestSchema):
    reason = fields.String(load_default=None, allow_none=True, validate=_IS_REASON)


class SettleSchema(ActSchema):
    settlement = fields.String(data_key="as", required=True, validate=validate.OneOf(SETTLEMENTS))


class RetriesSchema(OptionalReasonSchema):
    failed_since = Rfc3339(required=True)
    model_profile = fields.String(required=True, validate=validate.Length(1, 100))
    failure_code = fields.String(
        load_default=None, allow_none=True, validate=validate.Length(0, 100)
    )
    project_id = fields.String(load_default=None, allow_none=True, validate=is_project_id)
    limit = fields.Integer(strict=True, load_default=100, validate=validate.Range(1, 100))
    cursor = fields.String(load_default=None, allow_none=True, validate=is_cursor)
    dry_run = fields.Raw(load_default=False, validate=_is_true_or_false)


class JobViewQuerySchema(PageQuerySchema):
    view = fields.String(required=True, validate=validate.OneOf([view.value for view in View]))
    project_id = fields.String(load_default=None, validate=is_project_id)
    owner = fields.String(load_default=None, validate=validate.Length(1, 256))
    reason = fields.String(load_default=None, validate=validate.Length(1, 500))
    older_than = WholeNumber(load_default=0, validate=validate.Range(0, _LONGEST_AGE))
