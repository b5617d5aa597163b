"""A language of the page: a catalogue of gettext, and the locale's way to write numbers, money and dates.

A language is a file, ``locale/LANGUAGE.po``. English needs none: its sentences stand in the code and the templates.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from gettext import GNUTranslations, NullTranslations
from importlib import import_module
from pathlib import Path
from typing import Any

from longstride.errors import InputError, unknown
from longstride.evaluation.bootstrap import Interval

__all__ = ["CATALOGUES", "Language", "languages", "load_language", "needs_extra"]

CATALOGUES = Path(__file__).parent / "locale"
_SOURCE = "en"


def needs_extra(name: str) -> Any:
    """A module of the optional packages.

    Raises:
        InputError: they are not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise InputError("the report needs extra packages: pip install 'longstride[report]'") from None


def languages() -> list[str]:
    """Codes of all languages that have a file, and English."""
    return sorted({_SOURCE, *(file.stem for file in CATALOGUES.glob("*.po"))})


def load_language(code: str, folder: Path = CATALOGUES) -> Language:
    """The language of that code.

    Args:
        code: Such as ``"ja"``.
        folder: Folder of the catalogues.

    Raises:
        InputError: there is no such language, its file is damaged, or the optional packages are missing.
    """
    core, catalogues, binary = (needs_extra(f"babel.{name}") for name in ("core", "messages.pofile", "messages.mofile"))
    file = folder / f"{code}.po"
    if code != _SOURCE and (not code.isidentifier() or not file.exists()):
        raise unknown("language", code, languages())
    translations = NullTranslations()
    if file.exists():
        try:
            with file.open("rb") as opened:
                catalogue = catalogues.read_po(opened, locale=code, abort_invalid=True)
            buffer = io.BytesIO()
            binary.write_mo(buffer, catalogue)
        except (OSError, ValueError, catalogues.PoFileError) as error:
            raise InputError(f"the catalogue {file} is damaged: {error}") from None
        buffer.seek(0)
        translations = GNUTranslations(buffer)
    return Language(code, core.Locale.parse(code), translations)


@dataclass(frozen=True)
class Language:
    """Sentences, numbers and dates of one language.

    Attributes:
        code: Its code, such as ``"en"``.
        locale: Babel's locale.
        translations: The catalogue.
    """

    code: str
    locale: Any
    translations: NullTranslations

    def text(self, message: str, **values: object) -> str:
        """The message in this language, with its values in place of ``{name}``."""
        found = self.translations.gettext(message)
        return found.format(**values) if values else found

    def count(self, one: str, many: str, number: float, **values: object) -> str:
        """The message for a number of things, with ``{number}`` written out."""
        found = self.translations.ngettext(one, many, math.ceil(number))
        return found.format(number=self.whole(number), **values)

    # Numbers

    def number(self, value: float, digits: int = 3) -> str:
        """A number with so many significant digits, or without decimals for 0 digits; infinity as its sign.

        >>> english = load_language("en")
        >>> english.number(0.02034), english.number(1234.5), english.number(12.0, 2)
        ('0.0203', '1,230', '12')
        """
        return self._written(value, digits, "#,##0{}")

    def whole(self, value: float, digits: int = 3) -> str:
        """A large number rounded to so many significant digits, a small one to a whole one; halves go up."""
        size = 10 ** max(0, _exponent(value) + 1 - digits)
        return self.number(math.floor(value / size + 0.5) * size if math.isfinite(value) else value, 0)

    def percent(self, value: float, digits: int = 2) -> str:
        """A share in per cent with so many significant digits."""
        return self._written(value, digits, "#,##0{}%", shift=2)

    def money(self, value: float, currency: str, digits: int = 3) -> str:
        """An amount with so many significant digits.

        >>> load_language("en").money(1234.4, "EUR"), load_language("ja").money(0.0123, "JPY")
        ('€1,230', '￥0.0123')
        """
        numbers = needs_extra("babel.numbers")
        rounded, decimals = _rounded(value, digits)
        pattern = self.locale.currency_formats["standard"].pattern.replace(".00", _decimals(decimals))
        written: str = numbers.format_currency(
            rounded, currency, format=pattern, locale=self.locale, currency_digits=False
        )
        return written

    def _written(self, value: float, digits: int, pattern: str, shift: int = 0) -> str:
        numbers = needs_extra("babel.numbers")
        if not math.isfinite(value):
            return "∞" if value > 0 else "–"
        rounded, decimals = _rounded(value, digits)
        written: str = numbers.format_decimal(
            rounded, format=pattern.format(_decimals(max(0, decimals - shift))), locale=self.locale
        )
        return written

    def interval(self, found: Interval, kind: str = "number", **options: Any) -> str:
        """A value with the ends of its interval, all three with the decimals of the value."""
        write = getattr(self, kind)
        if found.low is None or found.high is None:
            return str(write(found.value, **options))
        ends = {"value": found.value, "low": found.low, "high": found.high}
        return self.text("{value} ({low}–{high})", **{name: write(end, **options) for name, end in ends.items()})

    def unit(self, value: float, unit: str, digits: int = 3) -> str:
        """A number with its unit in short, such as ``second``, ``minute`` or ``hour``."""
        units = needs_extra("babel.units")
        rounded, decimals = _rounded(value, digits)
        pattern = f"#,##0{_decimals(decimals)}"
        written: str = units.format_unit(rounded, unit, length="short", format=pattern, locale=self.locale)
        return written

    def duration(self, seconds: float) -> str:
        """Seconds, minutes, hours or days, with two significant digits."""
        for unit, size in (("day", 172_800), ("hour", 5400), ("minute", 90)):
            if seconds >= size:
                return self.unit(seconds / {"day": 86_400, "hour": 3600, "minute": 60}[unit], unit, 2)
        return self.unit(seconds, "second", 2)

    def day(self, written: str) -> str:
        """A date that is written as ``YYYY-MM-DD``."""
        dates = needs_extra("babel.dates")
        found: str = dates.format_date(date.fromisoformat(written), format="long", locale=self.locale)
        return found

    def listed(self, names: list[str]) -> str:
        """Names in a row."""
        lists = needs_extra("babel.lists")
        found: str = lists.format_list(names, locale=self.locale) if names else ""
        return found

    def strings(self, messages: Mapping[str, str]) -> dict[str, str]:
        """Messages by name, for scripts."""
        return {name: self.text(message) for name, message in messages.items()}


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def _rounded(value: float, digits: int) -> tuple[float, int]:
    """The value with so many significant digits, and the decimals that show them; at most 6 decimals."""
    if not digits:
        return round(value), 0
    decimals = min(6, digits - 1 - _exponent(value))
    rounded = round(value, decimals)
    return rounded, max(0, min(6, digits - 1 - _exponent(rounded)))


def _decimals(count: int) -> str:
    return "." + "0" * count if count else ""
