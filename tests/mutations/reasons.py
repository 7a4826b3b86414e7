"""Why a mutant may survive: by its module and `Mutant.change`."""

_ONE = "there is one element, which is the first and the last"
_ANY_NEGATIVE = "NumPy takes any negative size as the one that is left"
_SLOWER = "the same function, interpreted: the counts of instructions notice it"
_TYPES_ONLY = "what is imported there is only used in annotations"
_ADMISSION, _AUTH = "app/inference/admission.py", "app/api/auth.py"
_STATISTICS, _CALIBRATION = "model/uncertainty/statistics.py", "model/uncertainty/calibration.py"

REASONS: dict[tuple[str, str], str] = {
    (_ADMISSION, "if not TYPE_CHECKING:"): _TYPES_ONLY,
    (_AUTH, "return keys.admits(given[ -1][len(_SCHEME) :].strip())"): _ONE,
    (_CALIBRATION, 'without @compiled("void(float64[:, ::1], float64)")'): _SLOWER,
    (_CALIBRATION, "_soften(p.reshape(~1, p.shape[-1]), temperature)"): _ANY_NEGATIVE,
    (_CALIBRATION, "share = -1.0"): "a number of passes that is stored: both ends are its row",
    (_CALIBRATION, "share = 1.0"): "a number of passes that is stored: both ends are its row",
    (
        _STATISTICS,
        'without @compiled("Tuple((float64, float64))'
        '(float64[:, ::1], float64[:, ::1], int64[::1])")',
    ): _SLOWER,
    (_STATISTICS, "_entropies(mean.reshape(1, - 2), total)"): _ANY_NEGATIVE,
    (
        _STATISTICS,
        "_entropies(p.reshape(-1, p.shape[-1]), found.reshape(- 2))",
    ): _ANY_NEGATIVE,
    (_STATISTICS, "flat = p.reshape(- 2)"): _ANY_NEGATIVE,
    (_STATISTICS, "flat = p.reshape(~1)"): _ANY_NEGATIVE,
    (
        _STATISTICS,
        "per_class, votes = np.empty(( 4, p.shape[1])), np.zeros(p.shape[1], np.int64)",
    ): "a row more, which nobody reads",
    (_STATISTICS, "return total[ -1], expected / passes"): _ONE,
    (
        _STATISTICS,
        "variance = per_class[:, 1] if passes != 1 else None",
    ): "there are no answers of 0 passes",
    (
        "model/uncertainty/decisions.py",
        "mutual_information: float = -1.0,",
    ): "no threshold is below 0",
}
