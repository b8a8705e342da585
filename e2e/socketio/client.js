// A client in Node.js: see session.js.

import { io } from "socket.io-client";
import { serve } from "../internal/e2etest/remote.js";
import { session } from "./session.js";

await serve(session(io));
