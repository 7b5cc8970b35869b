-- Where requests go, for all workers; the address is read once in each worker.
require "resty.core"
local balancer = require "ngx.balancer"
local routes = ngx.shared.routes
local addresses = {}
local route = {}

local function set_peer(text)
    local address = addresses[text]
    if not address then
        local host, port = text:match("^(.+):(%d+)$")
        address = { host, tonumber(port) }
        addresses[text] = address
    end
    local ok, err = balancer.set_current_peer(address[1], address[2])
    if not ok then
        ngx.log(ngx.ERR, "no peer: ", err)
        return ngx.exit(502)
    end
end

function route.start(address)
    routes:add("web", address)
end

function route.balance()
    set_peer(routes:get("web"))
end

function route.balance_or_fall_back()
    if balancer.get_last_failure() then
        return set_peer(routes:get("previous") or routes:get("web"))
    end
    balancer.set_more_tries(1)
    set_peer(routes:get("web"))
end

function route.flip()
    local address = ngx.var.uri:match("^/flip/(.+:%d+)$")
    if not address then
        return ngx.exit(400)
    end
    routes:set("previous", routes:get("web"))
    routes:set("web", address)
    ngx.say("ok")
end

return route
