"""What comes in from operators. The fields and bounds are those of `spec/api/openapi.yaml`."""

from marshmallow import fields, validate

from api.requests import PageQuerySchema, WholeNumber, is_project_id
from store.views import View

_LONGEST_AGE = 10 * 365 * 86_400


class JobViewQuerySchema(PageQuerySchema):
    view = fields.String(required=True, validate=validate.OneOf([view.value for view in View]))
    project_id = fields.String(load_default=None, validate=is_project_id)
    owner = fields.String(load_default=None, validate=validate.Length(1, 256))
    reason = fields.String(load_default=None, validate=validate.Length(1, 500))
    older_than = WholeNumber(load_default=0, validate=validate.Range(0, _LONGEST_AGE))
