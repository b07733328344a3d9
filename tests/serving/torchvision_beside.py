"""Let torchvision be imported beside a torch that it was not built for: its own operators do not load there."""

import importlib.abc
import sys


class _Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"):
                for one in (operator, f"_{operator}_backward"):
                    self.library.define(f"{one}(Tensor x) -> Tensor")
            sys.modules["_stts_torchvision_library"] = self
        return None


sys.meta_path.insert(0, _Declare())
