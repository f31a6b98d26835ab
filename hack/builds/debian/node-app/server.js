console.log(require("greet")("node service"), process.getuid());
