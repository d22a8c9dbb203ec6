"""python context_process.py GRAPH ARCHITECTURE FOLDER: compile a graph for an HTP; context.onnx, and QNN's accounts, into FOLDER.

In a process of its own, because the compiler writes to stdout and stderr, keeps what it allocates, and may end its process.
"""

import sys

import onnxruntime as ort

from runtime.backends.qnn_library import htp_options


def main() -> None:
    graph, architecture, folder = sys.argv[1:]
    options = htp_options(
        {
            "htp_arch": architecture.removeprefix("v"),
            "enable_htp_prepare_only": "1",
            "enable_framework_op_trace": "1",
            "framework_op_trace_dir": folder,
            "dump_json_qnn_graph": "1",
            "json_qnn_graph_dir": folder,
        }
    )
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_embed_mode", "1")
    options.add_session_config_entry("ep.context_file_path", f"{folder}/context.onnx")
    try:
        ort.InferenceSession(graph, options)
    except Exception as error:  # noqa: BLE001 # its own exceptions have no base but this; told by the parent
        sys.exit(str(error))


if __name__ == "__main__":
    main()
