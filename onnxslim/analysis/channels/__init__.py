"""Which channels of a model can be removed together, whatever operators they pass through.

:func:`find_groups` follows every axis of every tensor through the graph.  An axis is described by a *layout*
(``layout.py``): a run of atoms, several layouts one after the other (Concat), or the product of several
(Reshape).  Operators say which layouts are equal (``OpSpec.couple``); unification refines them until all
agree.  What no operator, input or output pins is a group.
"""

from __future__ import annotations

from onnxslim.analysis.channels.discover import find_groups
from onnxslim.analysis.channels.groups import Channels, Group, Member, Pin
from onnxslim.analysis.channels.mask import Mask, weights_digest

__all__ = ["Channels", "Group", "Mask", "Member", "Pin", "find_groups", "weights_digest"]
