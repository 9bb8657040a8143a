# frozen_string_literal: true

# Gathers what comes in and hands it on together, once nothing came for so many seconds.
class Debounce
  def initialize(seconds, &quiet)
    @seconds = seconds
    @quiet = quiet
    @lock = Mutex.new
    @changed = ConditionVariable.new
    @gathered = []
    @finished = false
    @thread = Thread.new { wait_and_hand_on until done? }
  end

  def <<(item)
    @lock.synchronize do
      @gathered << item
      @due = now + @seconds
      @changed.signal
    end
    self
  end

  # Hands on what is still waiting.
  def finish
    @lock.synchronize do
      @finished = true
      @changed.signal
    end
    @thread.join
  end

  private

  def done?
    @lock.synchronize { @finished && @gathered.empty? }
  end

  def wait_and_hand_on
    ready = @lock.synchronize do
      @changed.wait(@lock) while @gathered.empty? && !@finished
      @changed.wait(@lock, @due - now) while !@finished && now < @due
      @gathered.tap { @gathered = [] }
    end
    @quiet.call(ready) unless ready.empty?
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
