/* The C entry points that TensorRT's Python bindings load; they give null, as a machine without a GPU does. */
#define ENTRY(name) void *name(void) { return 0; }
ENTRY(createInferBuilder_INTERNAL)
ENTRY(createInferRefitter_INTERNAL)
ENTRY(createInferRuntime_INTERNAL)
ENTRY(createNvOnnxParser_INTERNAL)
ENTRY(createNvOnnxParserRefitter_INTERNAL)
ENTRY(getNvOnnxParserVersion)
ENTRY(getPluginRegistry)
ENTRY(getBuilderPluginRegistry)
ENTRY(initLibNvInferPlugins)
