"""Computes the equation that a skill wrote. The evaluator `arithmetic` of a card; safe for whatever stands in an answer.

An equation is parsed by Python's own grammar and walked: numbers, + - * / **, signs and brackets, exact as fractions. Nothing is
ever run, and what would grow without bound is refused before it is computed.
"""

import ast
import re
from decimal import Decimal, localcontext
from fractions import Fraction

from mattoni.errors import MattoniError
from mattoni.runtime import Finished
from mattoni.trace import Notice

_MOST_CHARACTERS = 400  # of an equation
_MOST_BITS = 512  # of a numerator or a denominator: a number of 150 digits is no answer to a word problem
_DIGITS = 8  # of a number whose decimals do not end

_TYPED = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "$": "", "€": "", "£": ""})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(])")
_SIDE = re.compile(r"[\d\s.+\-*/()]+")


def evaluate(equation: str) -> Fraction:
    """The exact value of an equation's one side. Raises MattoniError with one sentence where it has none."""
    if len(equation) > _MOST_CHARACTERS:
        raise MattoniError(f"The equation is longer than {_MOST_CHARACTERS} characters, so it was not computed.")
    try:
        tree = ast.parse(equation.strip(), mode="eval")
        return _value(tree.body)
    except ZeroDivisionError as problem:
        raise MattoniError("The equation divides by zero, so it has no result.") from problem
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise MattoniError("What was written is no equation of numbers, so it was not computed.") from problem


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(Fraction(repr(number)))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return _bounded(_computed(_value(left), op, _value(right)))
    raise ValueError(type(node).__name__)


def _computed(left: Fraction, op: ast.operator, right: Fraction) -> Fraction:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow() if right.denominator == 1:
            if abs(right) * _bits(left) > _MOST_BITS:
                raise MattoniError("The equation's numbers grow too large, so it was not computed.")
            return Fraction(left ** int(right))
    # % is a remainder to Python and a hundredth to people: neither is guessed.
    raise ValueError(type(op).__name__)


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def _bounded(number: Fraction) -> Fraction:
    if _bits(number) > _MOST_BITS:
        raise MattoniError("The equation's numbers grow too large, so it was not computed.")
    return number


def number_text(number: Fraction) -> str:
    """A number as people write it: whole, or with its decimals; eight digits where they do not end."""
    if number.denominator == 1:
        return str(number.numerator)
    with localcontext() as context:
        context.prec = _DIGITS
        return format((Decimal(number.numerator) / Decimal(number.denominator)).normalize(), "f")


def find_equation(answer: str) -> str | None:
    """The side of the answer's last line with an operation that holds numbers to compute; None where there is none."""
    lines = [line for line in answer.splitlines() if line.strip()]
    line = _TIMES.sub(" * ", _THOUSANDS.sub("", lines[-1].translate(_TYPED))) if lines else ""
    sides = (side.strip().rstrip(".").strip() for side in line.split("="))
    return next((side for side in sides if _SIDE.fullmatch(side) and _has_operation(side)), None)


def _has_operation(side: str) -> bool:
    return re.search(r"[\d)]\s*[-+*/]", side) is not None


def finish(answer: str) -> Finished:
    """The result of the equation that an answer is, to stand behind it."""
    said = answer.strip()
    if re.fullmatch(r"[-$]?[\d.,]+", said):
        return Finished()
    equation = find_equation(said)
    if equation is None:
        return Finished(notices=(Notice("not-computed", "No equation was written, so nothing was computed."),))
    try:
        result = number_text(evaluate(equation))
    except MattoniError as problem:
        return Finished(notices=(Notice("not-computed", str(problem)),))
    described = (f"computed: {equation} = {result}",)
    if re.search(rf"=\s*{re.escape(result)}\.?$", said):
        return Finished(described=described)
    alone = "=" not in said and "\n" not in said
    return Finished(f" = {result}" if alone else f"\n\n{equation} = {result}", described)
