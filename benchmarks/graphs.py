"The graph of a measured model in ONNX Runtime: plain, or with inputs and outputs bound on the device; and where it really runs."
import copy
from collections import Counter
from pathlib import Path

import torch

import inference
from machine import operations, padded
from rows import Skip, once
from videolights.config import InputError, ModelConfig, from_dict
from videolights.deploy.bundle import CONFIG, INPUTS, MODEL
from videolights.deploy.sessions import SHORT, open_session
from videolights.files import read_json
from videolights.model.videolights import Output, VideoLights

TOYWORLD = Path(__file__).resolve().parent.parent / "exported" / "toyworld"


class Graphs:
    "The graph in each precision: exported, or of a bundle that is given, or of the shipped one where the exporter is not installed."

    def __init__(self, args, model, folder):
        self.args, self.model, self.folder = args, model, folder
        self.graph, self.session, self.flop = once(self.write), once(self.open), once(self.count)

    def write(self, precision):
        "(path, config, whose it is) of a graph."
        if precision == "bf16": raise Skip("bundles have no bf16")
        try: import onnxruntime      # noqa: F401
        except ImportError: raise Skip("ONNX Runtime is not installed") from None
        if precision == "fp16":
            source, *rest = self.graph("fp32")
            from videolights.deploy.precision import to_fp16
            try: to_fp16(source, self.folder / "fp16.onnx")
            except ImportError as e: raise Skip(f"{e.name} is not installed, and fp16 needs it") from None
            return self.folder / "fp16.onnx", *rest
        bundle = self.args.bundle
        if not bundle:
            from videolights.deploy.export import Graph, trace_onnx
            try: trace_onnx(Graph(copy.deepcopy(self.model).cpu(), 2.0), dict(dataset="random"), self.folder / MODEL)
            except InputError as e: print(f"no export ({e}): exported/toyworld takes the model's place")
            else: return self.folder / MODEL, self.model.config, "the model"
            bundle = TOYWORLD
        return bundle / MODEL, from_dict(ModelConfig, read_json(bundle / CONFIG)), bundle.name

    def open(self, precision, device):
        path, *_ = self.graph(precision)
        try: return open_session(path, device)
        except InputError as e: raise Skip(str(e)) from None

    def inputs(self, batch):
        "Features of random pairs, without endpoints."
        config, a = self.graph("fp32")[1], self.args
        given = lambda n, width: (torch.randn(batch, n, width), torch.ones(batch, n, dtype=torch.bool))
        torch.manual_seed(2018)
        return [x.numpy() for x in padded(given(a.clips, config.video_dim) + given(min(a.words, config.max_words), config.text_dim))]

    def call(self, precision, inputs, bound, device):
        "A call, and what reads its answer."
        session = self.session(precision, device)
        if not bound: return (lambda: session.run(Output._fields, dict(zip(INPUTS, inputs))),) * 2
        from onnxruntime import OrtValue
        binding = session.io_binding()
        for name, x in zip(INPUTS, inputs): binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(x, device, 0))
        for name in Output._fields: binding.bind_output(name, device)

        def run():
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return run, binding.copy_outputs_to_cpu

    def provider(self):
        "Where does a session run that asks for CUDA, and does ours own up to it?"
        path, *_ = self.graph("fp32")
        import onnxruntime
        try: ours = open_session(path, "cuda").get_providers()[0]
        except InputError: ours = None             # refused by name
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(self.folder / "profile")
        plain = onnxruntime.InferenceSession(path, options, providers=[SHORT["cuda"]])
        plain.run(None, dict(zip(INPUTS, self.inputs(2))))
        nodes = Counter(event["args"]["provider"] for event in read_json(plain.end_profiling()) if "provider" in event.get("args", {}))
        used = plain.get_providers()
        return dict(asked="cuda", ours=ours or "refused", onnxruntime=used[0], nodes=dict(nodes),
                    passed=ours == (SHORT["cuda"] if SHORT["cuda"] in used else None))

    def count(self):
        "Operations of a pair, counted in torch."
        config = self.graph("fp32")[1]
        model = VideoLights(config)
        inputs = [torch.as_tensor(x) for x in self.inputs(2)]
        inputs[0] = torch.nn.functional.pad(inputs[0], (0, 2))      # room for the endpoints
        return operations(inference.prepare(model, inputs)) / 2
