-- Health of every kind of llmops.dev in Argo CD, read from the conditions that kstatus knows and from what our kinds
-- call their end. Scaled to zero is healthy; what somebody suspended is suspended; what no time heals is degraded.
local status = obj.status or {}
local generation = status.observedGeneration
if generation == nil or generation ~= obj.metadata.generation then
  return { status = "Progressing", message = "The operator has not looked at this spec yet." }
end

local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end

local function told(health, condition)
  return { status = health, message = condition.reason .. ": " .. (condition.message or "") }
end

local function holds(kind)
  return found[kind] ~= nil and found[kind].status == "True"
end

if holds("Stalled") then
  return told("Degraded", found.Stalled)
end
if holds("Failed") then
  return told("Degraded", found.Failed)
end
if holds("Complete") then
  return told("Healthy", found.Complete)
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.reason == "Suspended" or condition.reason == "Paused" then
    return told("Suspended", condition)
  end
end
if holds("Reconciling") then
  return told("Progressing", found.Reconciling)
end
if holds("Ready") then
  return told("Healthy", found.Ready)
end
return told("Progressing", found.Ready or found.Complete or { reason = "Unknown", message = "No condition yet." })
