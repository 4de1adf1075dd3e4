"""All campaigns, by name."""

from __future__ import annotations

from hunt.campaign import Campaign
from hunt.compressed import Compressed
from hunt.killed import Killed
from hunt.mixed import Mixed
from hunt.mutated import Mutated
from hunt.pairs import Pairs
from hunt.planted import Planted
from hunt.verdicts import Verdicts

CAMPAIGNS: dict[str, type[Campaign]] = {
    campaign.name: campaign for campaign in (Verdicts, Planted, Pairs, Compressed, Mutated, Killed, Mixed)
}
