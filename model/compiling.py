"""interim"""
import os
os.environ.setdefault("NUMBA_CPU_NAME","x86-64-v3")
os.environ.setdefault("NUMBA_CPU_FEATURES","+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3,+xsave,+cx16,+fxsr,+mmx,+cx8")
import numba
ALL=[]
def compiled(*signature):
    def deco(f):
        d = numba.njit(nogil=True, error_model="numpy", boundscheck=False)(f)
        if signature: d._sig = signature[0]; ALL.append(d)
        return d
    return deco
def compile_all():
    for d in ALL:
        if not d.signatures: d.compile(d._sig); d.disable_compile()
