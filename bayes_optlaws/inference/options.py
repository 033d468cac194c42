"""Options of an estimator, kept as they were given: scikit-learn's convention."""

from __future__ import annotations

import inspect
from typing import Any, Self


class WithOptions:
    """An object whose constructor arguments are attributes of the same name.

    `get_params` and `set_params` then work as in scikit-learn, and so does ``sklearn.base.clone``.
    """

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Options by name, as they were given.

        Parameters
        ----------
        deep : bool
            Of no effect; scikit-learn's ``clone`` passes it.

        Examples
        --------
        >>> import bayes_optlaws as bo
        >>> bo.OptLaw(transfer=False).get_params()["transfer"]
        False
        """
        names = inspect.signature(type(self).__init__).parameters
        return {n: getattr(self, n) for n in names if n != "self"}

    def set_params(self, **options: Any) -> Self:
        """Change options; a posterior there is stays that of the options it was fitted with.

        Parameters
        ----------
        **options
            As of the constructor.

        Raises
        ------
        ValueError
            If there is no such option, or the constructor refuses its value.
        """
        known = self.get_params()
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"unknown options {unknown}; valid ones are {sorted(known)}")
        type(self)(**(known | options))  # refuses what the constructor refuses
        for name, value in options.items():
            setattr(self, name, value)
        return self
