"""Where the golden tests run: on the CPU, or on what ``REPRO_TEST_DEVICE`` names, such as ``cuda``.

They are in float64, and as exact on a GPU as on a CPU: the engine within 1e-10 of automatic differentiation (relative, of the norm), the
traces within 1e-8 of the golden ones, which a CPU wrote. A GPU sums in another order, which changes the fifteenth digit or so of each
sum; twenty steps of these cases amplify a change of the first weights at most twofold, and an error of the algorithm is far above.
"""

import os

DEVICE = os.environ.get("REPRO_TEST_DEVICE", "cpu")
