"""Fill in the templates of this folder. The pages load nothing from elsewhere."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedser.reports import numbers
from fedser.results.attacks import target
from fedser.server.privacy.statement import epsilon_text


def render(template: str, **values: Any) -> str:
    """Return a page. All text is escaped, except text that is marked as HTML.

    Parameters
    ----------
    template : str
        File name in `templates`.
    values : dict
        Variables of the template.
    """
    environment = Environment(
        loader=PackageLoader("fedser.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        function.__name__: function
        for function in (
            numbers.percent,
            numbers.decimal,
            numbers.p_text,
            epsilon_text,
            numbers.nominal_text,
            numbers.delta_text,
            numbers.counted,
            target,
        )
    }
    return environment.get_template(template).render(values)
