"""Why a mutant may survive: by its module and `Mutant.change`."""

_ANY_NEGATIVE = "NumPy takes any negative size as the one that is left"
_CHOICE = "how many is a choice; the tests take it from the code"
_ONE = "there is one element, which is the first and the last"
_REMEMBERED = "what is remembered is computed again"
_SLOWER = "the same function, interpreted: the counts of instructions notice it"
_STORED = "a number of passes that is stored: both ends are its row"
_TYPES = "it is there for the type checker"

REASONS: dict[str, dict[str, str]] = {
    "app/inference/scheduler.py": {
        "TURNS_OF_A_ROUND = 3": _CHOICE,
        "await asyncio.sleep( -1)": "asyncio takes no negative time for 0",
        "if passes and seconds != 0:": "the clock is monotonic: no time is below 0",
        "passes_per_second: float = 100001.0,": "a first guess, which measurements replace",
        "without @property": _TYPES,
    },
    "app/inference/admission.py": {"if not TYPE_CHECKING:": _TYPES},
    "app/api/auth.py": {"return keys.admits(given[ -1][len(_SCHEME) :].strip())": _ONE},
    "model/sampling/masks.py": {
        "@lru_cache(maxsize= 33)": _REMEMBERED,
        "without @lru_cache(maxsize=32)": _REMEMBERED,
        'without @compiled("void(int64, int64, uint8[::1], uint8[:, ::1])")': _SLOWER,
        "words[4 * block ^ 2] = x2": "the last two bits of 4 * block are 0",
    },
    "model/uncertainty/statistics.py": {
        "_entropies(mean.reshape(1, - 2), total)": _ANY_NEGATIVE,
        "_entropies(p.reshape(-1, p.shape[-1]), found.reshape(- 2))": _ANY_NEGATIVE,
        "flat = p.reshape(- 2)": _ANY_NEGATIVE,
        "flat = p.reshape(~1)": _ANY_NEGATIVE,
        "per_class, votes = np.empty(( 4, p.shape[1])), np.zeros(p.shape[1], np.int64)": (
            "a row more, which nobody reads"
        ),
        "return total[ -1], expected / passes": _ONE,
        "variance = per_class[:, 1] if passes != 1 else None": "no answer has 0 passes",
        'without @compiled("Tuple((float64, float64))'
        '(float64[:, ::1], float64[:, ::1], int64[::1])")': _SLOWER,
    },
    "model/uncertainty/calibration.py": {
        "_soften(p.reshape(~1, p.shape[-1]), temperature)": _ANY_NEGATIVE,
        "share = -1.0": _STORED,
        "share = 1.0": _STORED,
        'without @compiled("void(float64[:, ::1], float64)")': _SLOWER,
    },
    "model/uncertainty/decisions.py": {
        "mutual_information: float = -1.0,": "no threshold is below 0"
    },
}
