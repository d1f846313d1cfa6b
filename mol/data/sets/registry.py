"""The data sets that can be prepared: their loaders, and where their licences are applied for.

None of them is distributed here. Who gives a set out, and under what terms, is written from its publications; the
agreement that you sign is what counts. A new set is one module with a loader beside the others, and one entry below.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mol.common.errors import DataError, SettingsError
from mol.data.manifest import Loaded, Loader, OnError
from mol.data.sets.casme2 import load_casme2
from mol.data.sets.casme3 import load_casme3
from mol.data.sets.casme_sq import load_casme_sq
from mol.data.sets.fourdme import load_fourdme
from mol.data.sets.generic import find_table, load_generic
from mol.data.sets.mmew import load_mmew
from mol.data.sets.released import load_released
from mol.data.sets.samm import load_samm
from mol.data.sets.smic import load_smic, load_smic_extended


@dataclass(frozen=True)
class DataSet:
    """One entry of the registry; calling it loads the set.

    Attributes:
        title: as its authors write it.
        load: its loader.
        fps: frames per second; None where the clips say so themselves.
        files: what is looked for under the root.
        access: who gives it out and under what terms.
        citation: the publication that its users cite.
    """

    title: str
    load: Loader
    fps: float | None
    files: str
    access: str
    citation: str

    def __call__(self, root: Path, on_error: OnError = "raise") -> Loaded:
        """Load the set; see `mol.data.manifest.Loader`."""
        return self.load(root, on_error)


_CHINESE_ACADEMY = (
    "licence agreement with the Institute of Psychology, Chinese Academy of Sciences; academic research, not passed on"
)
_OULU = "licence agreement with the University of Oulu (CMVS); academic research, not passed on"

SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        "casme2": DataSet(
            "CASME II",
            load_casme2,
            200.0,
            "CASME2-coding-*.xlsx; CASME2_RAW_selected, CASME2-RAW or Cropped",
            _CHINESE_ACADEMY,
            "Yan et al., CASME II, PLoS ONE 9 (1), 2014",
        ),
        "samm": DataSet(
            "SAMM",
            load_samm,
            200.0,
            "SAMM_Micro_FACS_Codes_v2.xlsx; SAMM/006/006_1_2",
            "licence agreement with Manchester Metropolitan University; academic research, not passed on",
            "Davison et al., SAMM, IEEE Transactions on Affective Computing 9 (1), 2018",
        ),
        "smic": DataSet(
            "SMIC-HS",
            load_smic,
            100.0,
            "SMIC_all_cropped or SMIC_all_raw, no sheet",
            _OULU,
            "Li et al., A Spontaneous Micro-expression Database, FG 2013",
        ),
        "smic-e": DataSet(
            "SMIC-E (HS), the extended clips",
            load_smic_extended,
            100.0,
            "SMIC-E_raw image/HS_long/SMIC-HS-E and its annotation sheet (columns not confirmed)",
            _OULU,
            "Li et al., Towards Reading Hidden Emotions, IEEE Transactions on Affective Computing 9 (4), 2018",
        ),
        "casme-sq": DataSet(
            "CAS(ME)²",
            load_casme_sq,
            30.0,
            "code_final.xlsx; rawpic or longVideoFaceCropped",
            _CHINESE_ACADEMY,
            "Qu et al., CAS(ME)², IEEE Transactions on Affective Computing 9 (4), 2018",
        ),
        "casme3": DataSet(
            "CAS(ME)³ part A",
            load_casme3,
            30.0,
            "cas(me)3_part_A_ME_label_JpgIndex_v2.xlsx; part_A or Part_A_ME_clip",
            _CHINESE_ACADEMY,
            "Li et al., CAS(ME)³, IEEE TPAMI 45 (3), 2023",
        ),
        "mmew": DataSet(
            "MMEW",
            load_mmew,
            90.0,
            "MMEW_Micro_Exp.xlsx; Micro_Expression",
            "licence agreement with Shandong University (dpailab.com); academic research, not passed on",
            "Ben et al., Video-Based Facial Micro-Expression Analysis, IEEE TPAMI 44 (9), 2022",
        ),
        "4dme": DataSet(
            "4DME, grey videos",
            load_fourdme,
            60.0,
            "4DME_Labelling_Micro_release v1.xlsx; gray_micro (folders not confirmed)",
            _OULU,
            "Li et al., 4DME, IEEE Transactions on Affective Computing, 2022",
        ),
        "released": DataSet(
            "the folders of the published code of MOL",
            load_released,
            None,
            "data/CASME2_data_{3,5}, SAMM_data_{3,5}, SMIC_data_3",
            "the licences of the sets that the folders were made from",
            "Shao et al., MOL, IEEE TPAMI 2025, and the sets'",
        ),
        "generic": DataSet(
            "your own clips",
            load_generic,
            None,
            "a CSV with subject,clip,path,onset,apex,offset,label",
            "yours",
            "none",
        ),
    }
)


def find_set(name: str) -> DataSet:
    """The entry of a name.

    Raises:
        SettingsError: there is none; the names are listed and the nearest one is offered.
    """
    if name in SETS:
        return SETS[name]
    spellings = {**{known: known for known in SETS}, **{entry.title.lower(): known for known, entry in SETS.items()}}
    near = difflib.get_close_matches(name.lower().replace("_", "-"), spellings, n=1, cutoff=0.5)
    meant = f" Did you mean {spellings[near[0]]}?" if near else ""
    raise SettingsError(f"{name!r} is no data set that can be prepared; there are {', '.join(SETS)}.{meant}")


def manifest_root(root: Path) -> Path:
    """The absolute folder that the paths of loaded clips start from: the root, or the folder of a table given as root.

    Raises:
        DataError: the root does not exist.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist; give the folder into which the data set was unpacked.")
    return (find_table(root).parent if root.is_file() else root).resolve()


def describe_sets() -> str:
    """One line a set, for the help of ``mol prepare`` and the documentation."""
    width = max(map(len, SETS))
    return "\n".join(
        f"{name:<{width}}  {entry.title}: {entry.files}. Access: {entry.access}." for name, entry in SETS.items()
    )
