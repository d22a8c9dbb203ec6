import sys
from pathlib import Path

import numpy as np

from calibration.datasets import find_images
from calibration.pairs import load_pair
from runtime.bundle import Bundle
from runtime.upscaler import Upscaler
from tests.test_quantize_accuracy import luma_psnr_db

b=Bundle.open(Path(sys.argv[1])); s=int(b.manifest.scale); root=Path("/work/shared/data")
v=b.variant("int8",target="npu-a16"); print(v.options, v.psnr_vs_fp32_db)
for name in sys.argv[2].split(","):
    pairs=[load_pair(p,scale=s) for p in find_images(name,scale=s,use="evaluation",root=root).pairs]
    d={}
    for pr in ("fp32","int8"):
        with Upscaler.open(b,precision=pr,backend="onnxruntime",target="npu-a16" if pr=="int8" else None,threads=1) as u:
            d[pr]=float(np.mean([luma_psnr_db(u(lo),hi,border=s) for lo,hi in pairs]))
            if pr=="int8": print(u.precision_report, u.value_check)
    print(name,d,"loss %.4f"%(d["fp32"]-d["int8"]))
