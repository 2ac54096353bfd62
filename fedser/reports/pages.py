"""Pages that need nothing else: templates of this package, filled in."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedser.reports.wording import decimal, delta_text, nominal_text, p_text, percent
from fedser.results.attacks import target
from fedser.server.privacy.statement import epsilon_text


def render(template: str, **values: Any) -> str:
    """Fill in a template; text is escaped unless it is marked up.

    Parameters
    ----------
    template : str
        File name in `attacks`.
    """
    environment = Environment(
        loader=PackageLoader("fedser.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        function.__name__: function
        for function in (percent, decimal, p_text, epsilon_text, nominal_text, delta_text, target)
    }
    return environment.get_template(template).render(values)
