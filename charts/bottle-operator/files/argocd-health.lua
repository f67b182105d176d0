-- SPDX-License-Identifier: Apache-2.0
-- The health of a Bottle in Argo CD, which calls every kind that it has no script for
-- Healthy. It agrees with kstatus, which Flux and kubectl use, and reads no reasons, so it
-- stays right when a later release of the operator adds some.
-- Argo CD opens only Lua's base and table libraries for scripts in argocd-cm.

local function health(status, message)
  return {status = status, message = message}
end

-- text is what a condition says: REASON: MESSAGE.
local function text(condition)
  return (condition.reason or "") .. ": " .. (condition.message or "")
end

-- current tells whether a generation that was observed is the Bottle's own.
local function current(generation)
  return generation == nil or obj.metadata.generation == nil or generation == obj.metadata.generation
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "the Bottle is being deleted")
end

local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local ready = conditions["Ready"]
if ready == nil then
  return health("Progressing", "waiting for the operator")
end
if not current(ready.observedGeneration) then
  return health("Progressing", "waiting for the operator to act on the changed spec")
end
if not current(status.observedGeneration) then
  return health("Progressing", text(ready))
end

local reconciling, stalled = conditions["Reconciling"], conditions["Stalled"]
if reconciling ~= nil and reconciling.status == "True" then
  return health("Progressing", text(ready))
end
if stalled ~= nil and stalled.status == "True" then
  return health("Degraded", text(stalled))
end
if ready.status ~= "True" then
  return health("Progressing", text(ready))
end

-- A Bottle that is stopped as requested is Healthy, not Suspended: a sync would wait for
-- a suspended one without end.
local message = text(ready)
for _, name in ipairs({"PendingRestart", "EgressLimited"}) do
  local condition = conditions[name]
  if condition ~= nil and condition.status == "True" then
    message = message .. "; " .. name .. ": " .. (condition.message or "")
  end
end
return health("Healthy", message)
