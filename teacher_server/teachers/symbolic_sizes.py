"""Sizes that depend on the batch, as torch.export writes them: text that sympy would otherwise ``eval``."""

import ast

from teacher_server.teachers.model_file import ModelFileError

_LENGTH_MAX = 2000
_FUNCTIONS = frozenset((
    # sympy's arithmetic and comparisons
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Min", "Max", "Mod", "Abs", "And", "Or",
    "Not", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "StrictLessThan", "LessThan",
    "StrictGreaterThan", "GreaterThan", "Piecewise",
    # torch's own, for sizes
    "FloorDiv", "ModularIndexing", "Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv",
    "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv",
    "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat",
    "Identity",
))  # fmt: skip
_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip


def require_size_expression(text: str) -> None:
    """Raise ModelFileError unless ``text`` is arithmetic on numbers and symbols."""
    refusal = ModelFileError(f"the size {text[:80]!r} is not evaluated; allowed is arithmetic on numbers and symbols")
    if len(text) > _LENGTH_MAX:
        raise refusal
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refusal from error
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise refusal
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS):
            raise refusal
        if isinstance(node, ast.Name) and not (node.id in _FUNCTIONS or _is_symbol(node.id)):
            raise refusal
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not _is_symbol(node.value):
            raise refusal


def _is_symbol(name: str) -> bool:
    """s77, u0, zuf3; also a number in quotes, as Float and Rational take it."""
    return name.isascii() and (name.rstrip("0123456789").isalpha() or _is_number(name)) and len(name) <= 40


def _is_number(text: str) -> bool:
    return bool(text) and all(character in "0123456789.e+-" for character in text)
