// A stand-in for mongosh on a pipe: reads lines, evaluates each, prints what they print and what they are worth.
// The first prompt, the blank line after what has no value, and "Uncaught" are as mongosh 2.12 was seen to do.
// With the argument "mongo" it does as the old shell of MongoDB 4.4 and 5.0 does.
"use strict";
const fs = require("fs");
const vm = require("vm");
const readline = require("readline");

const CONNECTION = 3;
const OLD = process.argv[2] === "mongo";

function ask(command) {
  fs.writeSync(CONNECTION, JSON.stringify({ say: JSON.stringify(command) }) + "\n");
  const byte = Buffer.alloc(1);
  let line = "";
  while (true) {
    if (fs.readSync(CONNECTION, byte, 0, 1) === 0) {
      throw new Error("connection closed");
    }
    if (byte[0] === 10) {
      break;
    }
    line += String.fromCharCode(byte[0]);
  }
  const answer = JSON.parse(line);
  if (answer.down) {
    throw new Error("MongoNetworkError: connection closed");
  }
  const found = JSON.parse(answer.text);
  if (found.ok !== 1) {
    throw Object.assign(new Error(found.errmsg), { name: "MongoServerError" });
  }
  return found;
}

const out = (text) => fs.writeSync(1, text);
const database = { runCommand: ask, adminCommand: ask, getSiblingDB: () => database };
// As mongosh's helper does: without fsyncLock.
database.currentOp = () => ({ inprog: ask({ currentOp: 1 }).inprog, ok: 1 });
const context = vm.createContext({ db: database, print: (...words) => out(words.join(" ") + "\n"), prompt: "test> " });

out("test> ");
const reader = readline.createInterface({ input: process.stdin });
reader.on("line", (line) => {
  if (line.trim() === "exit" || line.trim() === "quit") {
    process.exit(0);
  }
  try {
    const value = vm.runInContext(line, context);
    if (value !== undefined || !OLD) {
      out((value === undefined ? "" : typeof value === "function" ? "[Function]" : String(value)) + "\n");
    }
  } catch (error) {
    const said = `${error.name}: ${error.message}`;
    out(OLD ? `uncaught exception: ${said} :\n@(shell):1:1\n` : `Uncaught ${said}\n`);
  }
  out(context.prompt);
});
reader.on("close", () => process.exit(0));
