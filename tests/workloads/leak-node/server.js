const { EventEmitter } = require("node:events");

const bus = new EventEmitter();
bus.setMaxListeners(0);

setInterval(() => {
  const body = Buffer.alloc(1 << 20, "b");
  // Nobody takes it off again, and it holds the body.
  bus.on("close", () => body.length);
}, 1000 / 12);
